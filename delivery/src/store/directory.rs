//! A block store that is a directory: one file per block, named by its CID in base32. The embedded default, and what hosts and
//! tests share where there is no IPFS node; names and blocks are those that IPFS has for the same bytes.
//!
//! Trusts nothing it finds: links, anything but regular files, files too long, and bytes that the CID does not name are refused.
//! What is not pinned is not kept: to unpin is to delete. Safe for several processes at once; writes are atomic and synced.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{ErrorKind, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::{Answer, BlockStore, Held, ready};
use crate::{
    block::{BlockCid, MAX_BLOCK_BYTES},
    dag::{self, Tree},
    error::DeliveryError,
};

/// A directory of blocks.
#[derive(Clone, Debug)]
pub struct DirectoryStore {
    path: PathBuf,
}

impl DirectoryStore {
    /// Opens the store at `path`, making the directory (not its parents) where it is absent.
    ///
    /// # Errors
    /// [`DeliveryError::Io`], also where `path` is not a directory.
    pub fn open(path: &Path) -> Result<Self, DeliveryError> {
        match fs::create_dir(path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
            Err(error) => return Err(DeliveryError::io("create directory", path)(error)),
        }
        Ok(Self { path: path.to_owned() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps `block` (pinned) and gives its CID. Once this returns, the block survives a crash.
    ///
    /// # Errors
    /// [`DeliveryError::BlockTooLarge`], [`DeliveryError::Io`].
    pub fn put(&self, block: &[u8]) -> Result<BlockCid, DeliveryError> {
        let cid = BlockCid::of(block)?;
        self.write(&cid, block)?;
        Ok(cid)
    }

    fn write(&self, cid: &BlockCid, block: &[u8]) -> Result<(), DeliveryError> {
        if self.get(cid).is_ok() {
            return Ok(());
        }
        // Anyone may read: blocks are sealed, and the recipient runs as somebody else.
        let mut file = tempfile::Builder::new()
            .prefix(".new-")
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(&self.path)
            .map_err(DeliveryError::io("create a file in", &self.path))?;
        let path = self.file_of(cid);
        file.write_all(block)
            .and_then(|()| file.as_file().set_permissions(Permissions::from_mode(0o644)))
            .and_then(|()| file.as_file().sync_all())
            .map_err(DeliveryError::io("write", &path))?;
        file.persist(&path).map_err(|error| DeliveryError::io("write", &path)(error.error))?;
        self.sync()
    }

    /// Reads a block and verifies it.
    ///
    /// # Errors
    /// [`DeliveryError::Missing`]; [`DeliveryError::NotAFile`], [`DeliveryError::BlockTooLarge`], [`DeliveryError::Corrupt`] for
    /// what is not the block; [`DeliveryError::Io`].
    pub fn get(&self, cid: &BlockCid) -> Result<Vec<u8>, DeliveryError> {
        let path = self.file_of(cid);
        let (name, store) = (cid.to_string(), self.path.display().to_string());
        // O_NONBLOCK: a fifo in its place must not hold the reader.
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(DeliveryError::Missing { cid: name, store });
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENXIO)) => {
                return Err(DeliveryError::NotAFile { cid: name, store });
            }
            Err(error) => return Err(DeliveryError::io("open", &path)(error)),
        };
        let metadata = file.metadata().map_err(DeliveryError::io("read", &path))?;
        if !metadata.is_file() {
            return Err(DeliveryError::NotAFile { cid: name, store });
        }
        let too_large = |found| DeliveryError::BlockTooLarge { found, maximum: MAX_BLOCK_BYTES };
        let length = usize::try_from(metadata.len()).ok().filter(|length| *length <= MAX_BLOCK_BYTES);
        let length = length.ok_or_else(|| too_large(metadata.len()))?;

        // The file may grow while it is read: never more than one byte beyond the limit.
        let limit = u64::try_from(MAX_BLOCK_BYTES).unwrap_or(u64::MAX).saturating_add(1);
        let mut block = Vec::with_capacity(length);
        file.take(limit).read_to_end(&mut block).map_err(DeliveryError::io("read", &path))?;
        let found = cid.of_same_kind(&block)?;
        if found == *cid {
            Ok(block)
        } else {
            Err(DeliveryError::Corrupt { cid: name, store, found: found.to_string() })
        }
    }

    /// Makes sure that a block, and what is below it, is kept: here every block present is pinned.
    ///
    /// # Errors
    /// As [`DirectoryStore::get`]; [`DeliveryError::Node`].
    pub fn pin(&self, cid: &BlockCid) -> Result<(), DeliveryError> {
        let block = self.get(cid)?;
        dag::pieces(cid, &block)?.iter().try_for_each(|piece| self.get(piece).map(|_| ()))
    }

    /// Lets go of a block and of what is below it, which deletes them. A block that is not there is fine. Sealed blocks never repeat,
    /// so that no two files share a piece.
    ///
    /// # Errors
    /// [`DeliveryError::Io`].
    pub fn unpin(&self, cid: &BlockCid) -> Result<(), DeliveryError> {
        if cid.is_node()
            && let Ok(pieces) = self.get(cid).and_then(|node| dag::pieces(cid, &node))
        {
            pieces.iter().try_for_each(|piece| self.remove(piece))?;
        }
        self.remove(cid)
    }

    fn remove(&self, cid: &BlockCid) -> Result<(), DeliveryError> {
        let path = self.file_of(cid);
        match fs::remove_file(&path) {
            Ok(()) => self.sync(),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(DeliveryError::io("remove", &path)(error)),
        }
    }

    /// The names of the blocks here, sorted; their bytes are not read. Files with other names are passed over.
    ///
    /// # Errors
    /// [`DeliveryError::Io`].
    pub fn list(&self) -> Result<Vec<BlockCid>, DeliveryError> {
        let mut blocks = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(DeliveryError::io("list", &self.path))? {
            let entry = entry.map_err(DeliveryError::io("list", &self.path))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            // Only the name under which `get` would look: the same CID in another base is another file.
            let Some(cid) = name.parse::<BlockCid>().ok().filter(|cid| cid.to_string() == name) else { continue };
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                blocks.push(cid);
            }
        }
        blocks.sort_unstable();
        Ok(blocks)
    }

    fn file_of(&self, cid: &BlockCid) -> PathBuf {
        self.path.join(cid.to_string())
    }

    fn sync(&self) -> Result<(), DeliveryError> {
        File::open(&self.path).and_then(|directory| directory.sync_all()).map_err(DeliveryError::io("sync", &self.path))
    }
}

impl BlockStore for DirectoryStore {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn takes_blocks(&self) -> bool {
        true
    }

    fn put_tree<'a>(&'a self, tree: &'a Tree<'a>) -> Answer<'a, ()> {
        // The node last: who finds it finds what is below it.
        ready(tree.blocks().try_for_each(|(cid, block)| self.write(&cid, block)))
    }

    fn get_block<'a>(&'a self, cid: &'a BlockCid) -> Answer<'a, Vec<u8>> {
        ready(self.get(cid))
    }

    fn pin_tree<'a>(&'a self, root: &'a BlockCid) -> Answer<'a, ()> {
        ready(self.pin(root))
    }

    fn unpin_tree<'a>(&'a self, root: &'a BlockCid) -> Answer<'a, ()> {
        ready(self.unpin(root))
    }

    fn holds<'a>(&'a self, root: &'a BlockCid) -> Answer<'a, Held> {
        ready(match self.pin(root) {
            Ok(()) => Ok(Held::Pinned),
            Err(DeliveryError::Missing { .. }) => Ok(Held::Absent),
            Err(error) => Err(error),
        })
    }

    fn probe(&self) -> Answer<'_, String> {
        ready(self.list().map(|blocks| format!("{} blocks", blocks.len())))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    fn store() -> (tempfile::TempDir, DirectoryStore) {
        let directory = tempfile::tempdir().unwrap();
        let store = DirectoryStore::open(&directory.path().join("blocks")).unwrap();
        (directory, store)
    }

    fn names(store: &DirectoryStore) -> Vec<String> {
        fs::read_dir(store.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_block_put_is_listed_and_comes_back() {
        let (_directory, store) = store();
        let cid = store.put(b"sealed").unwrap();
        assert_eq!(store.put(b"sealed").unwrap(), cid);
        store.pin(&cid).unwrap();
        assert_eq!(store.get(&cid).unwrap(), b"sealed");
        assert_eq!(store.list().unwrap(), [cid]);
        assert_eq!(names(&store), [cid.to_string()]);
        assert_eq!(fs::metadata(store.path().join(cid.to_string())).unwrap().mode() & 0o7777, 0o644);
    }

    #[test]
    fn an_unpinned_block_is_gone_and_unpinning_again_is_fine() {
        let (_directory, store) = store();
        let cid = store.put(b"sealed").unwrap();
        store.unpin(&cid).unwrap();
        store.unpin(&cid).unwrap();
        assert!(matches!(store.get(&cid), Err(DeliveryError::Missing { .. })));
        assert!(matches!(store.pin(&cid), Err(DeliveryError::Missing { .. })));
        assert_eq!(store.list().unwrap(), []);
        assert_eq!(names(&store), [""; 0]);
    }

    #[test]
    fn wrong_bytes_under_a_name_are_refused_and_put_repairs_them() {
        let (_directory, store) = store();
        let cid = store.put(b"sealed").unwrap();
        let path = store.path().join(cid.to_string());
        fs::write(&path, b"Sealed").unwrap();
        let error = store.get(&cid).unwrap_err();
        let found = BlockCid::of(b"Sealed").unwrap();
        let directory = store.path().display();
        assert_eq!(error.to_string(), format!("block {cid} in {directory}: its bytes hash to {found}"));
        store.put(b"sealed").unwrap();
        assert_eq!(store.get(&cid).unwrap(), b"sealed");
    }

    #[test]
    fn a_link_is_refused_even_to_the_right_bytes_and_put_replaces_it_not_its_target() {
        let (directory, store) = store();
        let elsewhere = directory.path().join("elsewhere");
        fs::write(&elsewhere, b"sealed").unwrap();
        let cid = BlockCid::of(b"sealed").unwrap();
        let path = store.path().join(cid.to_string());
        symlink(&elsewhere, &path).unwrap();
        assert!(matches!(store.get(&cid), Err(DeliveryError::NotAFile { .. })));
        assert_eq!(store.list().unwrap(), []);

        fs::write(&elsewhere, b"precious").unwrap();
        store.put(b"sealed").unwrap();
        assert_eq!(store.get(&cid).unwrap(), b"sealed");
        assert_eq!(fs::read(&elsewhere).unwrap(), b"precious");
    }

    #[test]
    fn directories_and_fifos_in_the_place_of_a_block_are_refused_at_once() {
        let (_directory, store) = store();
        let directory_cid = BlockCid::of(b"directory").unwrap();
        fs::create_dir(store.path().join(directory_cid.to_string())).unwrap();
        let fifo_cid = BlockCid::of(b"fifo").unwrap();
        let fifo = store.path().join(fifo_cid.to_string());
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        for cid in [directory_cid, fifo_cid] {
            assert!(matches!(store.get(&cid), Err(DeliveryError::NotAFile { .. })), "{cid}");
        }
        assert_eq!(store.list().unwrap(), []);
    }

    #[test]
    fn a_huge_file_is_refused_unread() {
        let (_directory, store) = store();
        let cid = BlockCid::of(b"huge").unwrap();
        let file = File::create(store.path().join(cid.to_string())).unwrap();
        file.set_len(1 << 50).unwrap_or_else(|_| file.set_len(1 << 40).unwrap());
        let length = file.metadata().unwrap().len();
        let error = store.get(&cid).unwrap_err();
        assert_eq!(error.to_string(), format!("block of {length} bytes: expected at most 262144"));
    }

    #[test]
    fn a_block_over_256_kib_is_not_put() {
        let (_directory, store) = store();
        assert!(matches!(store.put(&vec![0; MAX_BLOCK_BYTES + 1]), Err(DeliveryError::BlockTooLarge { .. })));
        assert_eq!(names(&store), [""; 0]);
        let cid = store.put(&vec![0; MAX_BLOCK_BYTES]).unwrap();
        assert_eq!(store.get(&cid).unwrap().len(), MAX_BLOCK_BYTES);
    }

    #[test]
    fn files_of_other_names_are_passed_over() {
        let (_directory, store) = store();
        let cid = store.put(b"sealed").unwrap();
        for name in ["README", ".new-abc", "bafkrei", "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH"] {
            fs::write(store.path().join(name), b"x").unwrap();
        }
        fs::write(store.path().join(cid.to_string().to_uppercase()), b"x").unwrap();
        assert_eq!(store.list().unwrap(), [cid]);
    }

    #[test]
    fn a_store_where_a_file_stands_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blocks");
        fs::write(&path, b"").unwrap();
        let error = DirectoryStore::open(&path).unwrap_err();
        assert!(error.to_string().starts_with("create directory "), "{error}");
    }
}
