//! The manifest: 512 bytes that name the files, bind them by length and header checksum, and say how fresh they are.
//!
//! Replacing it is what publishes. It refuses reserved bytes that are not zero and a validity longer than the staleness
//! that it announces.

use countersign_certificate::{Id, RealmId};

use crate::clock::{BootId, Freshness};
use crate::layout::{Audience, FORMAT_VERSION, Fields, expect};
use crate::records::Salt;
use crate::tables::Generation;

pub(crate) const MANIFEST_BYTES: usize = 512;
const MANIFEST_MAGIC: &[u8; 8] = b"CSIGNMAN";

/// A block by number and time.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct BlockRef {
    /// Number.
    pub number: u64,
    /// Unix time, seconds.
    pub time_secs: u64,
}

/// What the realm says of this host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostState {
    /// Its record is not there, or removed: nothing is granted.
    Unknown,
    /// It is there.
    Active,
    /// It is locked or revoked: nothing is granted.
    Locked,
}

/// What holds for the whole snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// The realm.
    pub realm: RealmId,
    /// This host's record id.
    pub host: Id,
    /// What the realm says of this host.
    pub host_state: HostState,
    /// Whether only logged certificates count.
    pub require_logged: bool,
    /// Whether this host's configuration lets grants cover uid 0.
    pub allow_root: bool,
    /// Seconds between an approval and the latest start of what it approves.
    pub pickup_secs: u64,
    /// The realm's longest life of a certificate, seconds.
    pub max_ttl_secs: u64,
    /// The block up to which denials count.
    pub latest_block: BlockRef,
    /// The block up to which new authority counts.
    pub final_block: BlockRef,
}

/// A file that the manifest names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileRef {
    /// Its generation, which its name ends in.
    pub generation: Generation,
    /// Its length.
    pub bytes: u64,
    /// Checksum of its header page.
    pub header_checksum: u32,
}

/// What one audience's snapshot consists of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// Counts publications, refreshed ones included.
    pub generation: Generation,
    /// The base.
    pub base: FileRef,
    /// What changes it, if anything.
    pub delta: Option<FileRef>,
    /// The salt of both files.
    pub salt: Salt,
    /// What holds for the whole snapshot.
    pub facts: Facts,
    /// What its age is told by.
    pub freshness: Freshness,
}

impl Manifest {
    pub(crate) fn encode(&self, audience: Audience) -> Vec<u8> {
        let mut out = Vec::with_capacity(MANIFEST_BYTES);
        out.extend_from_slice(MANIFEST_MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_be_bytes());
        out.push(audience.byte());
        out.push(u8::from(self.delta.is_some()));
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.generation.to_be_bytes());
        write_file(&mut out, Some(&self.base));
        write_file(&mut out, self.delta.as_ref());
        out.extend_from_slice(&self.salt.0);
        out.extend_from_slice(&self.facts.realm.0);
        out.extend_from_slice(&self.facts.host.0);
        out.push(match self.facts.host_state {
            HostState::Unknown => 0,
            HostState::Active => 1,
            HostState::Locked => 2,
        });
        out.push(u8::from(self.facts.require_logged));
        out.push(u8::from(self.facts.allow_root));
        out.extend_from_slice(&[0; 5]);
        for number in [
            self.facts.pickup_secs,
            self.facts.max_ttl_secs,
            self.facts.latest_block.number,
            self.facts.latest_block.time_secs,
            self.facts.final_block.number,
            self.facts.final_block.time_secs,
            self.freshness.valid_until_secs,
            self.freshness.boottime_secs,
            self.freshness.age_consumed_secs,
            self.freshness.max_staleness_secs,
            self.freshness.highest_wall_secs,
        ] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(&self.freshness.boot_id.0);
        out.resize(MANIFEST_BYTES.saturating_sub(4), 0);
        let checksum = crc32fast::hash(&out);
        out.extend_from_slice(&checksum.to_be_bytes());
        out
    }

    /// Reads a manifest. The error names what was expected.
    pub(crate) fn decode(bytes: &[u8; MANIFEST_BYTES], audience: Audience) -> Result<Self, &'static str> {
        let short = "a whole manifest";
        let (payload, checksum) = bytes.split_last_chunk::<4>().ok_or(short)?;
        expect(crc32fast::hash(payload) == u32::from_be_bytes(*checksum), "the checksum of the manifest")?;
        let mut fields = Fields::new(payload);
        expect(fields.array::<8>() == Some(*MANIFEST_MAGIC), "the magic of a manifest")?;
        expect(fields.u16() == Some(FORMAT_VERSION), "format version 1")?;
        expect(fields.u8() == Some(audience.byte()), "a manifest of this audience")?;
        let has_delta = fields.flag().ok_or("a flag of 0 or 1")?;
        expect(fields.zeros(4), "reserved bytes to be zero")?;
        let generation = fields.u64().ok_or(short)?;
        let base = read_file(&mut fields).ok_or(short)?;
        let delta = read_file(&mut fields).ok_or(short)?;
        let none = FileRef { generation: 0, bytes: 0, header_checksum: 0 };
        expect(has_delta || delta == none, "no delta where none is announced")?;
        let salt = Salt(fields.array().ok_or(short)?);
        let realm = RealmId(fields.array().ok_or(short)?);
        let host = Id(fields.array().ok_or(short)?);
        let host_state = match fields.u8() {
            Some(0) => HostState::Unknown,
            Some(1) => HostState::Active,
            Some(2) => HostState::Locked,
            _ => return Err("a known host state"),
        };
        let require_logged = fields.flag().ok_or("a flag of 0 or 1")?;
        let allow_root = fields.flag().ok_or("a flag of 0 or 1")?;
        expect(fields.zeros(5), "reserved bytes to be zero")?;
        let mut number = || fields.u64().ok_or(short);
        let facts = Facts {
            realm,
            host,
            host_state,
            require_logged,
            allow_root,
            pickup_secs: number()?,
            max_ttl_secs: number()?,
            latest_block: BlockRef { number: number()?, time_secs: number()? },
            final_block: BlockRef { number: number()?, time_secs: number()? },
        };
        let (valid_until_secs, boottime_secs, age_consumed_secs) = (number()?, number()?, number()?);
        let (max_staleness_secs, highest_wall_secs) = (number()?, number()?);
        let boot_id = BootId(fields.array().ok_or(short)?);
        let rest = fields.remaining();
        expect(fields.zeros(rest), "reserved bytes to be zero")?;
        let freshness = Freshness {
            valid_until_secs,
            boot_id,
            boottime_secs,
            age_consumed_secs,
            max_staleness_secs,
            highest_wall_secs,
        };
        check_times(&facts, &freshness)?;
        Ok(Self { generation, base, delta: has_delta.then_some(delta), salt, facts, freshness })
    }
}

/// What must hold between the times of a manifest.
pub(crate) fn check_times(facts: &Facts, freshness: &Freshness) -> Result<(), &'static str> {
    let latest_end = facts.latest_block.time_secs.checked_add(freshness.max_staleness_secs);
    expect(
        latest_end.is_some_and(|end| freshness.valid_until_secs <= end),
        "valid-until within the staleness after the latest block",
    )?;
    expect(facts.final_block.number <= facts.latest_block.number, "a final block not after the latest")
}

fn write_file(out: &mut Vec<u8>, file: Option<&FileRef>) {
    let (generation, bytes, checksum) =
        file.map_or((0, 0, 0), |file| (file.generation, file.bytes, file.header_checksum));
    out.extend_from_slice(&generation.to_be_bytes());
    out.extend_from_slice(&bytes.to_be_bytes());
    out.extend_from_slice(&checksum.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
}

fn read_file(fields: &mut Fields<'_>) -> Option<FileRef> {
    let file = FileRef { generation: fields.u64()?, bytes: fields.u64()?, header_checksum: fields.u32()? };
    fields.zeros(4).then_some(file)
}
