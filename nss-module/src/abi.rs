//! The functions that glibc calls (nss(5), `nss.h`), and the caller's buffers.
//!
//! Everything unsafe of the module is here. A panic would end the calling process: none gets out. Strings and the array of members
//! lie in the caller's buffer, aligned wherever that buffer starts; what does not fit is `TRYAGAIN` with `ERANGE`, and the
//! caller comes back with a larger one. No result is half written: the structure is filled when all of it is in the buffer.
//!
//! A thread is not cancelled in here (`pthread_cancel`): the C library would unwind it through Rust's frames, which ends the process.
//! A panic, of which none is known, says its line on the process's standard error, as the standard library does: to be silent, a hook
//! would have to be set under a lock that a forked child may find held for ever.
#![expect(unsafe_code, reason = "a C interface: pointers come from the caller")]

use std::ffi::{CStr, c_char, c_int, c_long};
use std::mem::{align_of, size_of};
use std::panic::catch_unwind;
use std::path::Path;
use std::ptr;

use libc::{gid_t, group, passwd, size_t, uid_t};

use crate::lookup::{
    Missing, Person, Places, Team, groups_of, person_by_name, person_by_uid, team_by_gid, team_by_name,
};

/// `enum nss_status`.
type Status = c_int;
const TRY_AGAIN: Status = -2;
const UNAVAILABLE: Status = -1;
const NOT_FOUND: Status = 0;
const SUCCESS: Status = 1;

/// More groups than the kernel takes for a process (`NGROUPS_MAX`).
const MOST_GROUPS: usize = 65_536;

/// Longer names are nobody's.
const MOST_NAME_BYTES: usize = 256;

fn system() -> Places<'static> {
    Places {
        snapshot: Path::new("/var/lib/countersign/snapshot"),
        passwd: Path::new("/etc/passwd"),
        group: Path::new("/etc/group"),
        subuid: Path::new("/etc/subuid"),
        subgid: Path::new("/etc/subgid"),
        settings: Path::new("/etc/countersign/nss.conf"),
        owner: 0,
    }
}

/// Why a call gives nothing.
enum Failure {
    Missing(Missing),
    /// The caller's buffer is too small.
    Full,
    /// No memory for the list of groups.
    Memory,
}

impl From<Missing> for Failure {
    fn from(missing: Missing) -> Self {
        Self::Missing(missing)
    }
}

/// The caller's buffer, from which pieces are taken one after the other.
struct Scratch {
    next: *mut u8,
    left: usize,
}

impl Scratch {
    /// # Safety
    /// `buffer` must point to `length` bytes that nobody else uses as long as what comes out of them is in use.
    unsafe fn new(buffer: *mut c_char, length: size_t) -> Self {
        Self { next: buffer.cast(), left: if buffer.is_null() { 0 } else { length } }
    }

    /// `bytes` bytes at a multiple of `alignment`.
    fn take(&mut self, bytes: usize, alignment: usize) -> Result<*mut u8, Failure> {
        let padding = self.next.align_offset(alignment);
        let whole = padding.checked_add(bytes).ok_or(Failure::Full)?;
        let rest = self.left.checked_sub(whole).ok_or(Failure::Full)?;
        // SAFETY: `padding <= whole <= left`, and `left` bytes from `next` on are ours (`new`).
        let start = unsafe { self.next.add(padding) };
        // SAFETY: as above, `padding + bytes = whole <= left`.
        self.next = unsafe { start.add(bytes) };
        self.left = rest;
        Ok(start)
    }

    /// A copy that ends with NUL.
    fn text(&mut self, text: &str) -> Result<*mut c_char, Failure> {
        if text.bytes().any(|byte| byte == 0) {
            return Err(Failure::Missing(Missing::Unavailable));
        }
        let place = self.take(text.len().checked_add(1).ok_or(Failure::Full)?, 1)?;
        // SAFETY: `take` gave `text.len() + 1` bytes, which no reference covers; `text` lies elsewhere.
        unsafe { ptr::copy_nonoverlapping(text.as_ptr(), place, text.len()) };
        // SAFETY: the last of the bytes that `take` gave.
        unsafe { place.add(text.len()).write(0) };
        Ok(place.cast())
    }

    /// Copies of `texts`, and the NULL-terminated array of pointers to them.
    fn texts(&mut self, texts: &[String]) -> Result<*mut *mut c_char, Failure> {
        let bytes = texts.len().checked_add(1).and_then(|count| count.checked_mul(size_of::<*mut c_char>()));
        let place = self.take(bytes.ok_or(Failure::Full)?, align_of::<*mut c_char>())?;
        // `take` aligned it for pointers.
        let array = place.cast::<*mut c_char>();
        for (index, text) in texts.iter().enumerate() {
            let copy = self.text(text)?;
            // SAFETY: `index < texts.len()`, and the array has one more.
            unsafe { array.add(index).write(copy) };
        }
        // SAFETY: the array's last place.
        unsafe { array.add(texts.len()).write(ptr::null_mut()) };
        Ok(array)
    }
}

fn passwd_of(person: &Person, scratch: &mut Scratch) -> Result<passwd, Failure> {
    Ok(passwd {
        pw_name: scratch.text(&person.login)?,
        // No password opens it, and sshd does not take it for a locked account as it does `!`.
        pw_passwd: scratch.text("*")?,
        pw_uid: person.uid,
        pw_gid: person.gid,
        pw_gecos: scratch.text(&person.gecos)?,
        pw_dir: scratch.text(&person.home)?,
        pw_shell: scratch.text(&person.shell)?,
    })
}

fn group_of(team: &Team, scratch: &mut Scratch) -> Result<group, Failure> {
    Ok(group {
        gr_name: scratch.text(&team.name)?,
        gr_passwd: scratch.text("*")?,
        gr_gid: team.gid,
        gr_mem: scratch.texts(&team.members)?,
    })
}

unsafe extern "C" {
    /// pthread_setcancelstate(3).
    fn pthread_setcancelstate(state: c_int, former: *mut c_int) -> c_int;
}

/// glibc's `PTHREAD_CANCEL_DISABLE`.
const CANCEL_DISABLE: c_int = 1;

/// While it lives, this thread is not cancelled; afterwards it is as it was.
struct NotCancelled {
    former: c_int,
}

impl NotCancelled {
    fn begin() -> Self {
        let mut former = CANCEL_DISABLE;
        // SAFETY: `former` may be written. The state is a valid one, and then this cannot fail.
        unsafe { pthread_setcancelstate(CANCEL_DISABLE, &raw mut former) };
        Self { former }
    }
}

impl Drop for NotCancelled {
    fn drop(&mut self) {
        let mut ignored = 0;
        // SAFETY: `ignored` may be written, and the state is one that the C library gave.
        unsafe { pthread_setcancelstate(self.former, &raw mut ignored) };
    }
}

/// Runs a call, keeps its panic in, and says how it went as glibc wants it.
///
/// # Safety
/// `errnop` is null or may be written.
unsafe fn answer(errnop: *mut c_int, call: impl FnOnce() -> Result<(), Failure>) -> Status {
    let _not_cancelled = NotCancelled::begin();
    // What a panic leaves behind is the caller's buffer, which then does not count.
    let outcome = catch_unwind(std::panic::AssertUnwindSafe(call));
    let (status, errno) = match outcome {
        Ok(Ok(())) => return SUCCESS,
        Ok(Err(Failure::Missing(Missing::NotFound))) => (NOT_FOUND, libc::ENOENT),
        Ok(Err(Failure::Full)) => (TRY_AGAIN, libc::ERANGE),
        Ok(Err(Failure::Memory)) => (TRY_AGAIN, libc::ENOMEM),
        // Not ERANGE, for which callers would grow their buffers, nor ENOENT, which they read as "no such user".
        Ok(Err(Failure::Missing(Missing::Unavailable))) | Err(_) => (UNAVAILABLE, libc::EIO),
    };
    if !errnop.is_null() {
        // SAFETY: the caller's promise.
        unsafe { errnop.write(errno) };
    }
    status
}

/// Puts what a call makes into the caller's structure, once all of it lies in the buffer.
///
/// # Safety
/// `result` may be written, `buffer` has `length` bytes, `errnop` is null or may be written.
unsafe fn fill<T>(
    result: *mut T,
    buffer: *mut c_char,
    length: size_t,
    errnop: *mut c_int,
    call: impl FnOnce(&mut Scratch) -> Result<T, Failure>,
) -> Status {
    let whole = || {
        // SAFETY: the caller's promise.
        let mut scratch = unsafe { Scratch::new(buffer, length) };
        let filled = call(&mut scratch)?;
        // SAFETY: the caller's promise.
        unsafe { result.write(filled) };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { answer(errnop, whole) }
}

/// The name that a caller asks for; `NotFound` where it cannot be one.
///
/// # Safety
/// `name` is null or points to a string that ends with NUL.
unsafe fn name_at<'a>(name: *const c_char) -> Result<&'a [u8], Failure> {
    if name.is_null() {
        return Err(Missing::NotFound.into());
    }
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes();
    if name.len() > MOST_NAME_BYTES { Err(Missing::NotFound.into()) } else { Ok(name) }
}

/// `getpwnam_r`.
///
/// # Safety
/// As glibc calls it: `name` a C string, `result` and `errnop` writable, `buffer` of `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _nss_countersign_getpwnam_r(
    name: *const c_char,
    result: *mut passwd,
    buffer: *mut c_char,
    length: size_t,
    errnop: *mut c_int,
) -> Status {
    let call = |scratch: &mut Scratch| {
        // SAFETY: the caller's promise.
        let person = person_by_name(&system(), unsafe { name_at(name) }?)?;
        passwd_of(&person, scratch)
    };
    // SAFETY: the caller's promise.
    unsafe { fill(result, buffer, length, errnop, call) }
}

/// `getpwuid_r`.
///
/// # Safety
/// As [`_nss_countersign_getpwnam_r`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _nss_countersign_getpwuid_r(
    uid: uid_t,
    result: *mut passwd,
    buffer: *mut c_char,
    length: size_t,
    errnop: *mut c_int,
) -> Status {
    let call = |scratch: &mut Scratch| {
        let person = person_by_uid(&system(), uid)?;
        passwd_of(&person, scratch)
    };
    // SAFETY: the caller's promise.
    unsafe { fill(result, buffer, length, errnop, call) }
}

/// `getgrnam_r`.
///
/// # Safety
/// As [`_nss_countersign_getpwnam_r`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _nss_countersign_getgrnam_r(
    name: *const c_char,
    result: *mut group,
    buffer: *mut c_char,
    length: size_t,
    errnop: *mut c_int,
) -> Status {
    let call = |scratch: &mut Scratch| {
        // SAFETY: the caller's promise.
        let team = team_by_name(&system(), unsafe { name_at(name) }?, length)?;
        group_of(&team, scratch)
    };
    // SAFETY: the caller's promise.
    unsafe { fill(result, buffer, length, errnop, call) }
}

/// `getgrgid_r`.
///
/// # Safety
/// As [`_nss_countersign_getpwnam_r`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _nss_countersign_getgrgid_r(
    gid: gid_t,
    result: *mut group,
    buffer: *mut c_char,
    length: size_t,
    errnop: *mut c_int,
) -> Status {
    let call = |scratch: &mut Scratch| {
        let team = team_by_gid(&system(), gid, length)?;
        group_of(&team, scratch)
    };
    // SAFETY: the caller's promise.
    unsafe { fill(result, buffer, length, errnop, call) }
}

/// `initgroups_dyn`: adds the user's groups to the list that glibc holds. `start` is how many are in it, `size` for how many
/// it has room, `limit` (where above 0) how many it may ever hold.
///
/// # Safety
/// As glibc calls it: `user` a C string, `groups` from malloc with room for `size`, all pointers writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _nss_countersign_initgroups_dyn(
    user: *const c_char,
    own: gid_t,
    start: *mut c_long,
    size: *mut c_long,
    groups: *mut *mut gid_t,
    limit: c_long,
    errnop: *mut c_int,
) -> Status {
    let call = || {
        let most = usize::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(MOST_GROUPS).min(MOST_GROUPS);
        // SAFETY: the caller's promise.
        let gids = groups_of(&system(), unsafe { name_at(user) }?, own, most)?;
        for gid in gids.into_iter().filter(|gid| *gid != own) {
            // SAFETY: the caller's promise.
            let list = unsafe { List::at(start, size, groups) };
            // SAFETY: as above; `List` checks the room before it writes.
            if !unsafe { list.push(gid, most) }? {
                break;
            }
        }
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { answer(errnop, call) }
}

/// The list of groups that glibc holds.
struct List {
    start: *mut c_long,
    size: *mut c_long,
    groups: *mut *mut gid_t,
}

impl List {
    /// # Safety
    /// See [`_nss_countersign_initgroups_dyn`].
    unsafe fn at(start: *mut c_long, size: *mut c_long, groups: *mut *mut gid_t) -> Self {
        Self { start, size, groups }
    }

    /// Adds one; false where the list may not grow any more.
    ///
    /// # Safety
    /// See [`_nss_countersign_initgroups_dyn`].
    unsafe fn push(&self, gid: gid_t, most: usize) -> Result<bool, Failure> {
        // SAFETY: the caller's promise.
        let (count, room) = unsafe { (self.start.read(), self.size.read()) };
        let (Ok(used), Ok(held)) = (usize::try_from(count), usize::try_from(room)) else {
            return Err(Missing::Unavailable.into());
        };
        if used >= most {
            return Ok(false);
        }
        if used >= held {
            let larger = held.saturating_mul(2).max(16).min(most);
            let bytes = larger.checked_mul(size_of::<gid_t>()).ok_or(Failure::Memory)?;
            // SAFETY: glibc's list comes from malloc, and is handed on as realloc gives it.
            let grown = unsafe { libc::realloc(self.groups.read().cast(), bytes) };
            if grown.is_null() {
                return Err(Failure::Memory);
            }
            // SAFETY: the caller's promise.
            unsafe { self.groups.write(grown.cast()) };
            // SAFETY: the caller's promise.
            unsafe { self.size.write(c_long::try_from(larger).unwrap_or(c_long::MAX)) };
        }
        // SAFETY: `used` is below the room that the list has by now.
        unsafe { self.groups.read().add(used).write(gid) };
        // SAFETY: the caller's promise.
        unsafe { self.start.write(count.saturating_add(1)) };
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person() -> Person {
        Person {
            uid: 1_900_000_000,
            gid: 1_900_000_000,
            login: "alice".to_owned(),
            gecos: "Alice".to_owned(),
            home: "/home/alice".to_owned(),
            shell: "/bin/sh".to_owned(),
        }
    }

    /// What a passwd's strings need: each with its NUL.
    const PASSWD_BYTES: usize = "alice\0*\0Alice\0/home/alice\0/bin/sh\0".len();

    #[test]
    fn a_buffer_of_every_size_too_small_is_full_and_stays_within_its_bounds() {
        for length in 0..=PASSWD_BYTES {
            let mut buffer = vec![0x5a_u8; PASSWD_BYTES + 8];
            // SAFETY: `length` is at most the buffer's.
            let mut scratch = unsafe { Scratch::new(buffer.as_mut_ptr().cast(), length) };
            let fits = passwd_of(&person(), &mut scratch).is_ok();
            assert_eq!(fits, length == PASSWD_BYTES, "{length}");
            assert!(buffer[length..].iter().all(|byte| *byte == 0x5a), "{length}");
        }
    }

    #[test]
    fn the_array_of_members_is_aligned_wherever_the_buffer_starts_and_ends_with_null() {
        for members in 0..5_usize {
            for shift in 0..16_usize {
                let names: Vec<String> = (0..members).map(|index| "m".repeat(index + 1)).collect();
                let team = Team { gid: 70_000, name: "odd".to_owned(), members: names.clone() };
                let mut buffer = vec![0_u8; 512];
                // SAFETY: 16 bytes are kept for the shift.
                let mut scratch = unsafe { Scratch::new(buffer.as_mut_ptr().add(shift).cast(), 496) };
                let group = group_of(&team, &mut scratch).ok().unwrap();
                assert!(group.gr_mem.is_aligned(), "{members} {shift}");
                for (index, name) in names.iter().enumerate() {
                    // SAFETY: the array has as many members as names, each a C string in the buffer.
                    let found = unsafe { CStr::from_ptr(*group.gr_mem.add(index)) };
                    assert_eq!(found.to_bytes(), name.as_bytes());
                }
                // SAFETY: the place after the last member.
                assert!(unsafe { *group.gr_mem.add(members) }.is_null());
            }
        }
    }

    #[test]
    fn a_nul_inside_a_name_is_unavailable_and_not_a_shorter_name() {
        let mut buffer = [0_u8; 64];
        // SAFETY: the buffer's own length.
        let mut scratch = unsafe { Scratch::new(buffer.as_mut_ptr().cast(), 64) };
        assert!(matches!(scratch.text("ro\0ot"), Err(Failure::Missing(Missing::Unavailable))));
    }

    #[test]
    fn a_panic_does_not_get_out_and_is_no_answer() {
        let mut errno = 0;
        // SAFETY: `errno` may be written.
        let status = unsafe { answer(&raw mut errno, || panic!("a bug")) };
        assert_eq!((status, errno), (UNAVAILABLE, libc::EIO));
    }

    #[test]
    fn the_list_of_groups_grows_to_its_limit_and_no_further() {
        // SAFETY: a list of one, as glibc hands it over.
        let mut groups = unsafe { libc::malloc(size_of::<gid_t>()) }.cast::<gid_t>();
        let (mut start, mut size) = (0, 1);
        // SAFETY: all three are ours.
        let list = unsafe { List::at(&raw mut start, &raw mut size, &raw mut groups) };
        for gid in 0..40 {
            // SAFETY: as above.
            assert_eq!(unsafe { list.push(70_000 + gid, 33) }.ok(), Some(gid < 33), "{gid}");
        }
        assert_eq!(start, 33);
        assert!(size >= start && size <= 33);
        // SAFETY: 33 were written.
        assert_eq!(unsafe { *groups.add(32) }, 70_032);
        // SAFETY: the list is not used any more.
        unsafe { libc::free(groups.cast()) };
    }
}
