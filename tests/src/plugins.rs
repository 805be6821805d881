//! Putting components into the directory of plugins, and spoiling them on purpose.

use std::fs;
use std::path::{Path, PathBuf};

/// Copies the component to `directory` as plugin `name` the way an installer does: whole, by a rename.
pub fn install(directory: &Path, name: &str, component: &Path) -> PathBuf {
    let bytes = fs::read(component).unwrap_or_else(|error| panic!("{}: {error}", component.display()));
    overwrite_bytes(directory, name, &bytes)
}

/// Puts these bytes in place of plugin `name`, whole, by a rename.
pub fn overwrite_bytes(directory: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    fs::create_dir_all(directory).expect("the directory of plugins can be made");
    let path = directory.join(format!("{name}.wasm"));
    let temporary = directory.join(format!(".{name}.wasm.tmp"));
    fs::write(&temporary, bytes).expect("the directory of plugins can be written");
    fs::rename(&temporary, &path).expect("a file can be renamed");
    path
}

/// The component with a custom section added: it does the same, and is another file.
pub fn salted(component: &Path, salt: u8) -> Vec<u8> {
    let mut bytes = fs::read(component).unwrap_or_else(|error| panic!("{}: {error}", component.display()));
    // Section 0 of 6 bytes: a name of 4, and the salt.
    bytes.extend_from_slice(&[0, 6, 4, b's', b'a', b'l', b't', salt]);
    bytes
}

/// The component with its contract's version, as "0.1.0", replaced by another of the same length: what a build against
/// another version of the contract imports and exports.
///
/// # Panics
///
/// When the component does not name the version.
pub fn with_contract_version(component: &Path, from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len(), "the lengths inside the component have to stay true");
    let mut bytes = fs::read(component).unwrap_or_else(|error| panic!("{}: {error}", component.display()));
    let (name, version) = (b"plugway:gateway/", format!("@{from}"));
    let mut replaced = 0;
    let mut at = 0;
    while let Some(found) = find(&bytes[at..], name) {
        at += found + name.len();
        let end = bytes.len().min(at + 64);
        let Some(offset) = find(&bytes[at..end], version.as_bytes()) else { continue };
        bytes[at + offset + 1..at + offset + version.len()].copy_from_slice(to.as_bytes());
        replaced += 1;
    }
    assert!(replaced > 0, "{} does not name plugway:gateway@{from}", component.display());
    bytes
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}
