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

/// A small component that takes a compiler minutes and gigabytes: a function whose many locals live through many nested
/// loops. `salt` makes it another file, of another length.
pub fn compile_bomb(salt: u8) -> Vec<u8> {
    const LOCALS: u64 = 3_000;
    const LOOPS: u64 = 900;
    let mut body = vec![1];
    leb128(&mut body, LOCALS);
    body.push(0x7f);
    // 900 times `loop`.
    body.extend([0x03, 0x40].repeat(usize::try_from(LOOPS).expect("it is small")));
    for local in 0..LOCALS {
        // local += 1
        body.push(0x20);
        leb128(&mut body, local);
        body.extend([0x41, 1, 0x6a, 0x21]);
        leb128(&mut body, local);
    }
    for _ in 0..LOOPS {
        // Back to the loop's beginning if the first local is set, else out of it.
        body.extend([0x20, 0, 0x0d, 0, 0x0b]);
    }
    body.push(0x0b);
    let mut code = vec![1];
    sized(&mut code, &body);
    let mut module = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x0a".to_vec();
    sized(&mut module, &code);
    let mut component = b"\0asm\x0d\0\x01\0\x01".to_vec();
    sized(&mut component, &module);
    // A custom section with an empty name.
    component.push(0);
    sized(&mut component, &vec![0; 1 + usize::from(salt)]);
    component
}

/// A component that exports these interfaces of the contract, as "filter", and has nothing in them.
pub fn exporting(interfaces: &[&str]) -> Vec<u8> {
    let mut component = b"\0asm\x0d\0\x01\0".to_vec();
    // An empty component, and an instance of it.
    component.push(4);
    sized(&mut component, b"\0asm\x0d\0\x01\0");
    component.push(5);
    sized(&mut component, &[1, 0, 0, 0]);
    let mut exports = Vec::new();
    leb128(&mut exports, interfaces.len() as u64);
    for interface in interfaces {
        exports.push(0);
        sized(&mut exports, format!("plugway:gateway/{interface}@0.1.0").as_bytes());
        // That instance, without a type.
        exports.extend([5, 0, 0]);
    }
    component.push(11);
    sized(&mut component, &exports);
    component
}

fn sized(into: &mut Vec<u8>, bytes: &[u8]) {
    leb128(into, bytes.len() as u64);
    into.extend_from_slice(bytes);
}

/// An unsigned number as WebAssembly writes it.
fn leb128(into: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        into.push(0x80 | u8::try_from(number & 0x7f).expect("seven bits"));
        number >>= 7;
    }
    into.push(u8::try_from(number).expect("seven bits"));
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
