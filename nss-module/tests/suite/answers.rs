//! What the module answers, from files as they are published, and what it refuses to answer whatever they say.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use countersign_snapshot::UserState;
use nss_countersign::{Missing, groups_of, person_by_name, person_by_uid, team_by_gid, team_by_name};

use crate::support::{Host, account, group, tables};

const ROOM: usize = 4096;

#[test]
fn a_user_is_found_by_name_and_by_number_with_home_and_shell() {
    let host = Host::new(&tables(vec![account("alice", 1_900_000_000, UserState::Active)], vec![], vec![]));
    let alice = host.ask(|places| person_by_name(places, b"alice")).unwrap();
    assert_eq!((alice.uid, alice.gid), (1_900_000_000, 1_900_000_000));
    assert_eq!((alice.home.as_str(), alice.shell.as_str()), ("/home/alice", "/bin/sh"));
    // A colon or a line's end would begin another field, or another user.
    assert_eq!(alice.gecos, "Some? One?");
    assert_eq!(host.ask(|places| person_by_uid(places, 1_900_000_000)), Ok(alice));
    assert_eq!(host.ask(|places| person_by_name(places, b"carol")), Err(Missing::NotFound));
    assert_eq!(host.ask(|places| person_by_uid(places, 1_900_000_001)), Err(Missing::NotFound));
}

#[test]
fn a_removed_or_locked_user_keeps_its_name_and_number_and_has_no_shell() {
    for state in [UserState::Removed, UserState::Locked] {
        let host = Host::new(&tables(vec![account("alice", 1_900_000_000, state)], vec![], vec![]));
        let alice = host.ask(|places| person_by_uid(places, 1_900_000_000)).unwrap();
        assert_eq!((alice.login.as_str(), alice.shell.as_str()), ("alice", "/usr/sbin/nologin"), "{state:?}");
    }
}

#[test]
fn a_local_name_or_number_is_never_shadowed() {
    // bob has this name on the host, and 1900000007 is bob's number there.
    let users =
        vec![account("bob", 1_900_000_001, UserState::Active), account("carol", 1_900_000_007, UserState::Active)];
    let host = Host::new(&tables(users, vec![group("locals", 70_001), group("devs", 1_900_000_020)], vec![]));
    for name in ["bob", "carol"] {
        assert_eq!(host.ask(|places| person_by_name(places, name.as_bytes())), Err(Missing::NotFound), "{name}");
    }
    for uid in [1_900_000_001, 1_900_000_007] {
        assert_eq!(host.ask(|places| person_by_uid(places, uid)), Err(Missing::NotFound), "{uid}");
    }
    for name in ["locals", "devs"] {
        assert_eq!(host.ask(|places| team_by_name(places, name.as_bytes(), ROOM)), Err(Missing::NotFound), "{name}");
    }
    for gid in [70_001, 1_900_000_020] {
        assert_eq!(host.ask(|places| team_by_gid(places, gid, ROOM)), Err(Missing::NotFound), "{gid}");
    }
    // Not by a group of the user's own either: 1900000020 is the host's ops.
    let host = Host::new(&tables(vec![account("dora", 1_900_000_020, UserState::Active)], vec![], vec![]));
    assert_eq!(host.ask(|places| person_by_name(places, b"dora")), Err(Missing::NotFound));
    assert_eq!(host.ask(|places| person_by_uid(places, 1_900_000_020)), Err(Missing::NotFound));
    // glibc reads an indented line as any other.
    let host = Host::new(&tables(vec![account("erin", 1_900_000_030, UserState::Active)], vec![], vec![]));
    assert!(host.ask(|places| person_by_name(places, b"erin")).is_ok());
    fs::write(host.passwd(), "root:x:0:0::/root:/bin/sh\n \terin:x:1000:1000::/:/bin/sh\n").unwrap();
    assert_eq!(host.ask(|places| person_by_name(places, b"erin")), Err(Missing::NotFound));
}

#[test]
fn numbers_that_the_host_gave_to_containers_are_never_answered() {
    let users = [100_000, 165_535, 165_536, 300_000].map(|uid| account(&format!("user{uid}"), uid, UserState::Active));
    let groups = vec![group("inside", 100_001), group("outside", 165_537), group("ours", 300_001)];
    let members = [100_001, 165_537].map(|gid| (gid, "user165536".to_owned())).to_vec();
    let host = Host::new(&tables(users.to_vec(), groups, members));
    let answered = |uid: u32| {
        let (by_number, name) = (host.ask(|places| person_by_uid(places, uid)), format!("user{uid}"));
        assert_eq!(host.ask(|places| person_by_name(places, name.as_bytes())), by_number, "{uid}");
        match by_number {
            Ok(_) => true,
            Err(Missing::NotFound) => false,
            Err(Missing::Unavailable) => panic!("unavailable: {uid}"),
        }
    };
    assert!([100_000, 165_535, 165_536, 300_000].into_iter().all(answered), "no files, no ranges");
    // A user's number is its group's too: each file counts for both.
    fs::write(host.subuid(), "bob:100000:65536\n").unwrap();
    fs::write(host.subgid(), "1000:300000:65536\n").unwrap();
    assert_eq!([100_000, 165_535, 165_536, 300_000].map(answered), [false, false, true, false]);
    for (name, gid, found) in [("inside", 100_001, false), ("outside", 165_537, true), ("ours", 300_001, false)] {
        assert_eq!(host.ask(|places| team_by_name(places, name.as_bytes(), ROOM)).is_ok(), found, "{name}");
        assert_eq!(host.ask(|places| team_by_gid(places, gid, ROOM)).is_ok(), found, "{gid}");
    }
    assert_eq!(host.ask(|places| groups_of(places, b"user165536", 165_536, 64)), Ok(vec![165_537]));
    for file in [host.subuid(), host.subgid()] {
        fs::write(&file, "bob:many:65536\n").unwrap();
        assert_eq!(host.ask(|places| person_by_uid(places, 165_536)), Err(Missing::Unavailable));
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert_eq!(host.ask(|places| team_by_gid(places, 165_537, ROOM)), Err(Missing::Unavailable));
        fs::remove_dir(&file).unwrap();
        assert!(host.ask(|places| person_by_uid(places, 165_536)).is_ok());
    }
}

#[test]
fn names_that_the_host_refuses_are_nobodys_on_it() {
    let users = vec![
        account("alice", 1_900_000_000, UserState::Active),
        account("deploy", 1_900_000_001, UserState::Active),
        account("ubuntu", 1_900_000_002, UserState::Active),
    ];
    let members = [("alice", 70_000), ("deploy", 70_000), ("alice", 70_001), ("ubuntu", 70_000)];
    let members = members.map(|(login, gid)| (gid, login.to_owned())).to_vec();
    let host = Host::new(&tables(users, vec![group("devs", 70_000), group("builders", 70_001)], members));
    let found = |name: &str| host.ask(|places| person_by_name(places, name.as_bytes())).is_ok();
    let members = || host.ask(|places| team_by_name(places, b"devs", ROOM)).unwrap().members;
    let groups = || host.ask(|places| groups_of(places, b"alice", 1_900_000_000, 64));
    assert_eq!(["alice", "deploy", "ubuntu"].map(found), [true, true, false]);
    assert_eq!((members().len(), groups()), (2, Ok(vec![70_000, 70_001])));
    fs::write(host.settings(), "shell = /bin/sh\nrefuse = deploy builders\n").unwrap();
    assert_eq!(["alice", "deploy", "ubuntu"].map(found), [true, false, false]);
    assert_eq!(host.ask(|places| person_by_uid(places, 1_900_000_001)), Err(Missing::NotFound));
    assert_eq!(host.ask(|places| team_by_name(places, b"builders", ROOM)), Err(Missing::NotFound));
    assert_eq!(host.ask(|places| team_by_gid(places, 70_001, ROOM)), Err(Missing::NotFound));
    assert_eq!((members(), groups()), (vec!["alice".to_owned()], Ok(vec![70_000])));
}

#[test]
fn numbers_of_the_host_and_names_of_power_are_never_answered() {
    let uids = [0, 1, 999, 1_000, 61_184, 65_519, 65_534, 65_535, u32::MAX - 1, u32::MAX];
    let users = uids.iter().map(|uid| account(&format!("user{uid}"), *uid, UserState::Active)).collect();
    let names = ["sudo", "wheel", "docker", "shadow", "adm", "systemd-journal"];
    let groups = (80_000..).zip(names).map(|(gid, name)| group(name, gid)).chain([group("low", 999)]).collect();
    let members = vec![(80_000, "user0".to_owned())];
    let host = Host::new(&tables(users, groups, members));
    for uid in uids {
        assert_eq!(host.ask(|places| person_by_uid(places, uid)), Err(Missing::NotFound), "{uid}");
        let name = format!("user{uid}");
        assert_eq!(host.ask(|places| person_by_name(places, name.as_bytes())), Err(Missing::NotFound), "{name}");
    }
    for (gid, name) in (80_000..).zip(names) {
        assert_eq!(host.ask(|places| team_by_name(places, name.as_bytes(), ROOM)), Err(Missing::NotFound), "{name}");
        assert_eq!(host.ask(|places| team_by_gid(places, gid, ROOM)), Err(Missing::NotFound), "{name}");
    }
    assert_eq!(host.ask(|places| team_by_name(places, b"low", ROOM)), Err(Missing::NotFound));
}

#[test]
fn a_users_groups_are_listed_without_its_own_and_without_those_that_the_host_has() {
    let groups =
        vec![group("alice", 1_900_000_000), group("devs", 70_000), group("sudo", 70_001), group("locals", 70_002)];
    let members = vec![
        (70_000, "alice".to_owned()),
        (70_001, "alice".to_owned()),
        (70_002, "alice".to_owned()),
        (70_000, "bob".to_owned()),
        (70_000, "dora".to_owned()),
    ];
    let host = Host::new(&tables(vec![account("alice", 1_900_000_000, UserState::Active)], groups, members));
    assert_eq!(host.ask(|places| groups_of(places, b"alice", 1_900_000_000, 64)), Ok(vec![70_000]));
    assert_eq!(host.ask(|places| groups_of(places, b"alice", 1_900_000_000, 0)), Ok(vec![]));
    // Somebody else of that name, whom another service knows, has another group.
    for own in [100, 1_900_000_001] {
        assert_eq!(host.ask(|places| groups_of(places, b"alice", own, 64)), Err(Missing::NotFound), "{own}");
    }
    // bob is a local user: no group of the realm takes him in, neither here nor in the list of members.
    assert_eq!(host.ask(|places| groups_of(places, b"bob", 1_900_000_001, 64)), Err(Missing::NotFound));
    let devs = host.ask(|places| team_by_name(places, b"devs", ROOM)).unwrap();
    assert_eq!((devs.gid, devs.members), (70_000, vec!["alice".to_owned(), "dora".to_owned()]));
    assert_eq!(host.ask(|places| team_by_gid(places, 1_900_000_000, ROOM)).unwrap().members, Vec::<String>::new());
}

#[test]
fn reading_members_stops_where_the_callers_buffer_is_full() {
    let members = (0..5_000).map(|ordinal| (70_000, format!("member{ordinal}"))).collect();
    let host = Host::new(&tables(vec![], vec![group("devs", 70_000)], members));
    assert!(host.ask(|places| team_by_gid(places, 70_000, 1_000)).unwrap().members.len() < 200);
    assert_eq!(host.ask(|places| team_by_gid(places, 70_000, usize::MAX)).unwrap().members.len(), 5_000);
}

#[test]
fn without_a_snapshot_with_a_damaged_or_a_strangers_one_nothing_is_known() {
    let unavailable = |host: &Host, what: &str| {
        assert_eq!(host.ask(|places| person_by_name(places, b"alice")), Err(Missing::Unavailable), "{what}");
        assert_eq!(host.ask(|places| person_by_uid(places, 1_900_000_000)), Err(Missing::Unavailable), "{what}");
        assert_eq!(host.ask(|places| team_by_name(places, b"devs", ROOM)), Err(Missing::Unavailable), "{what}");
        assert_eq!(
            host.ask(|places| groups_of(places, b"alice", 1_900_000_000, 9)),
            Err(Missing::Unavailable),
            "{what}"
        );
    };
    let whole = || {
        Host::new(&tables(
            vec![account("alice", 1_900_000_000, UserState::Active)],
            vec![group("devs", 70_000)],
            vec![],
        ))
    };
    unavailable(&Host::without_snapshot(), "none");
    let host = whole();
    fs::remove_file(host.file("accounts/manifest")).unwrap();
    unavailable(&host, "no manifest");
    let host = whole();
    fs::remove_file(host.base()).unwrap();
    unavailable(&host, "no base");
    let host = whole();
    let mut bytes = fs::read(host.base()).unwrap();
    bytes.iter_mut().skip(4096).for_each(|byte| *byte ^= 1);
    fs::write(host.base(), bytes).unwrap();
    unavailable(&host, "flipped pages");
    let host = whole();
    let base = fs::read(host.base()).unwrap();
    fs::write(host.base(), &base[..base.len() / 2]).unwrap();
    unavailable(&host, "cut");
    let host = whole();
    fs::set_permissions(host.base(), fs::Permissions::from_mode(0o666)).unwrap();
    unavailable(&host, "writable by everybody");
    let host = whole();
    fs::rename(host.base(), host.file("elsewhere")).unwrap();
    symlink(host.file("elsewhere"), host.base()).unwrap();
    unavailable(&host, "a link");
    let mut host = whole();
    host.owner = host.owner.wrapping_add(1);
    unavailable(&host, "somebody else's");
}

#[test]
fn a_host_file_that_cannot_be_read_is_no_proof_that_a_name_is_free() {
    let new = || {
        Host::new(&tables(
            vec![account("alice", 1_900_000_000, UserState::Active)],
            vec![group("devs", 70_000)],
            vec![],
        ))
    };
    let host = new();
    fs::remove_file(host.passwd()).unwrap();
    assert_eq!(host.ask(|places| person_by_name(places, b"alice")), Err(Missing::Unavailable));
    assert_eq!(host.ask(|places| team_by_name(places, b"devs", ROOM)), Err(Missing::Unavailable));
    let host = new();
    fs::remove_file(host.group()).unwrap();
    assert_eq!(host.ask(|places| team_by_name(places, b"devs", ROOM)), Err(Missing::Unavailable));
    assert_eq!(host.ask(|places| groups_of(places, b"alice", 1_900_000_000, 9)), Err(Missing::Unavailable));
    assert_eq!(host.ask(|places| person_by_name(places, b"alice")), Err(Missing::Unavailable));
    let host = new();
    fs::write(host.settings(), "home = /home\n").unwrap();
    assert_eq!(host.ask(|places| person_by_name(places, b"alice")), Err(Missing::Unavailable));
    // It may refuse the name.
    assert_eq!(host.ask(|places| team_by_name(places, b"devs", ROOM)), Err(Missing::Unavailable));
}

#[test]
fn a_name_is_answered_while_the_snapshot_is_stale() {
    // Freshness decides about access, which is not decided here: files keep their owners' names when the network is gone.
    let host = Host::new(&tables(vec![account("alice", 1_900_000_000, UserState::Active)], vec![], vec![]));
    let clock = countersign_snapshot::Clock::now().unwrap();
    assert!(host.accounts().fresh(&clock).is_err());
    assert!(host.ask(|places| person_by_name(places, b"alice")).is_ok());
}
