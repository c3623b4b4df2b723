//! `cargo xtask ebpf [--check]`: builds the kernel programs, or proves that the committed object is what its sources give.
//!
//! The reference build is the pinned toolchain of docs/adr/0001-ebpf-in-rust.md. Its output does not depend on where
//! it was built, so that it can be compared byte for byte. Where that toolchain is missing, the digests of
//! the sources that were recorded beside the object are compared instead.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use sha2::{Digest as _, Sha256};

use crate::{cmd, steady};

const TARGET: &str = "bpfel-unknown-none";
const RUSTC: &str = "/usr/bin/rustc";
const RUSTC_VERSION: &str = "rustc 1.96.0";
const LINKER_VERSION: &str = "bpf-linker 0.13.0";
const OBJCOPY: &str = "/usr/lib/llvm-22/bin/llvm-objcopy";
const NM: &str = "/usr/lib/llvm-22/bin/llvm-nm";
const OBJECT: &str = "crates/nv-dp/bpf/nv.bpf.o";
const DIGESTS: &str = "crates/nv-dp/bpf/nv.bpf.o.src.sha256";
/// What decides the build besides the source files that the compiler names.
const MANIFESTS: [&str; 4] = [
    "crates/nv-dp-ebpf/Cargo.lock",
    "crates/nv-dp-ebpf/Cargo.toml",
    "crates/nv-dp-common/Cargo.toml",
    "crates/nv-types/Cargo.toml",
];

/// Builds and writes the object, or with `check` compares it.
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    match (toolchain(), check) {
        (Ok(()), _) => build(check),
        (Err(missing), true) => {
            cmd::say(&format!(
                "ebpf: {missing}; comparing the recorded digests of the sources instead"
            ));
            compare_digests(&cmd::root())
        }
        (Err(missing), false) => {
            bail!("cannot build the kernel programs: {missing}; `cargo xtask setup` installs it")
        }
    }
}

/// Folder of tools that are not system packages.
fn tools() -> PathBuf {
    std::env::var_os("NV_TOOLS").map_or_else(|| PathBuf::from("/var/cache/nv-tools"), PathBuf::from)
}

/// Whether everything of the pinned toolchain is here; names the first that is not.
fn toolchain() -> Result<(), String> {
    let linker = tools().join("bin/bpf-linker");
    version(Path::new(RUSTC), RUSTC_VERSION)?;
    version(&linker, LINKER_VERSION)?;
    if !Path::new(OBJCOPY).exists() {
        return Err(format!("{OBJCOPY} is missing (package llvm-22)"));
    }
    let sysroot = Command::new(RUSTC)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output();
    match sysroot {
        Ok(output) if Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir() => Ok(()),
        _ => Err(format!(
            "{RUSTC} has no core library for {TARGET} (package libstd-rust-web-dev-bpf)"
        )),
    }
}

fn version(program: &Path, wanted: &str) -> Result<(), String> {
    let output = Command::new(program)
        .arg("--version")
        .stderr(Stdio::null())
        .output()
        .map_err(|error| {
            format!(
                "{} does not start ({error}), {wanted} is needed",
                program.display()
            )
        })?;
    let found = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if found.starts_with(wanted) {
        Ok(())
    } else {
        Err(format!("{} is '{found}', {wanted} is needed", program.display()))
    }
}

fn build(check: bool) -> anyhow::Result<()> {
    let root = cmd::root();
    let built = compile(&root)?;
    let fresh = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let object = root.join(OBJECT);
    if check {
        let committed = fs::read(&object).with_context(|| format!("cannot read {}", object.display()))?;
        if committed != fresh {
            bail!("{OBJECT} is not what its sources give: run `cargo xtask ebpf` and commit it");
        }
        cmd::say(&format!("ebpf: {OBJECT} rebuilt, {} bytes, equal", fresh.len()));
        return Ok(());
    }
    fs::create_dir_all(root.join("crates/nv-dp/bpf"))?;
    fs::write(&object, &fresh).with_context(|| format!("cannot write {}", object.display()))?;
    let digests = digests(&root, &sources(&root)?)?;
    fs::write(root.join(DIGESTS), digests).with_context(|| format!("cannot write {DIGESTS}"))?;
    cmd::say(&format!("ebpf: wrote {OBJECT}, {} bytes", fresh.len()));
    Ok(())
}

fn target_dir() -> PathBuf {
    cmd::target().join("bpf")
}

fn compile(root: &Path) -> anyhow::Result<PathBuf> {
    let target = target_dir();
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let home = home.context("neither CARGO_HOME nor HOME is set")?;
    let flags = [
        "--cfg=bpf_target_arch=\"x86_64\"".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
        "-Ctarget-cpu=v3".to_owned(),
        format!("--remap-path-prefix={}=/s", root.display()),
        format!("--remap-path-prefix={}=/r", home.join("registry/src").display()),
    ];
    let mut path = vec![tools().join("bin")];
    path.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    let mut cargo = cmd::cargo();
    cargo
        .current_dir(root.join("crates/nv-dp-ebpf"))
        .args(["build", "--release", "--locked", "--quiet", "--target", TARGET])
        .env("RUSTC", RUSTC)
        .env("RUSTC_BOOTSTRAP", "1") // inline assembly for BPF is not stable
        .env("PATH", std::env::join_paths(path)?)
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("RUSTC_WRAPPER", std::env::current_exe()?)
        .env(steady::VARIABLE, "1")
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTUP_TOOLCHAIN");
    cmd::run(&mut cargo)?;
    strip(&target)
}

/// Leaves what the kernel reads: debug sections are of no use to it, line tables would change with every comment, and
/// mangled names hold a hash of the folder that was built in.
fn strip(target: &Path) -> anyhow::Result<PathBuf> {
    let built = target.join(TARGET).join("release/nv");
    let names = cmd::output(Command::new(NM).arg("--format=just-symbols").arg(&built))?;
    let renames: String = names
        .lines()
        .filter(|name| name.starts_with("_R"))
        .map(|name| format!("{name} {}\n", without_hashes(name)))
        .collect();
    let list = target.join("nv.symbols");
    fs::write(&list, renames).with_context(|| format!("cannot write {}", list.display()))?;
    let object = target.join("nv.bpf.o");
    cmd::run(
        Command::new(OBJCOPY)
            .args([
                "--strip-debug",
                "--remove-section=.BTF.ext",
                "--remove-section=.rel.BTF.ext",
            ])
            .args(["--remove-section=.rel.BTF", "--discard-locals"])
            .arg(format!("--redefine-syms={}", list.display()))
            .arg(&built)
            .arg(&object),
    )?;
    Ok(object)
}

/// A mangled name (Rust RFC 2603) without its crates' disambiguators, `Cs<base 62>_`.
fn without_hashes(name: &str) -> String {
    let mut plain = String::new();
    let mut rest = name;
    while let Some((before, after)) = rest.split_once("Cs") {
        plain.push_str(before);
        let end = after.find(|c: char| !c.is_ascii_alphanumeric());
        match end.filter(|end| *end > 0 && after[*end..].starts_with('_')) {
            Some(end) => {
                plain.push('C');
                rest = &after[end + 1..];
            }
            None => {
                plain.push_str("Cs");
                rest = after;
            }
        }
    }
    plain + rest
}

/// Source files that the compiler read, from its dependency file, and the manifests.
fn sources(root: &Path) -> anyhow::Result<BTreeSet<String>> {
    let file = target_dir().join(TARGET).join("release/nv.d");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let (_, list) = text
        .split_once(':')
        .context("the compiler's dependency file has no target")?;
    let mut sources: BTreeSet<String> = MANIFESTS.map(str::to_owned).into();
    for path in list.split_whitespace() {
        if let Ok(inside) = Path::new(path).strip_prefix(root) {
            sources.insert(inside.display().to_string());
        }
    }
    Ok(sources)
}

/// One line a file, in the form of `sha256sum`.
fn digests(root: &Path, sources: &BTreeSet<String>) -> anyhow::Result<String> {
    let mut lines = String::new();
    for source in sources {
        lines.push_str(&format!("{}  {source}\n", digest(&root.join(source))?));
    }
    Ok(lines)
}

fn digest(path: &Path) -> anyhow::Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn compare_digests(root: &Path) -> anyhow::Result<()> {
    let text = fs::read_to_string(root.join(DIGESTS)).with_context(|| format!("cannot read {DIGESTS}"))?;
    let mut changed = Vec::new();
    for line in text.lines() {
        let (recorded, source) = line
            .split_once("  ")
            .with_context(|| format!("{DIGESTS}: cannot read '{line}'"))?;
        if digest(&root.join(source))? != recorded {
            changed.push(source.to_owned());
        }
    }
    if !changed.is_empty() {
        bail!(
            "{OBJECT} was not built from these sources: {}",
            changed.join(", ")
        );
    }
    cmd::say(&format!(
        "ebpf: {} sources are those that {OBJECT} was built from",
        text.lines().count()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_the_hash_of_their_folder() {
        assert_eq!(without_hashes("_RNvNtCs3F3Zg8_6common3app"), "_RNvNtC6common3app");
        assert_eq!(without_hashes("_RNvCsa1_2nvCsb2_1x"), "_RNvC2nvC1x");
        assert_eq!(without_hashes("nv_egress"), "nv_egress");
    }

    #[test]
    fn a_changed_source_is_named() {
        let root = std::env::temp_dir().join(format!("nv-xtask-ebpf-{}", std::process::id()));
        fs::create_dir_all(root.join("crates/nv-dp/bpf")).unwrap();
        fs::write(root.join("a.rs"), "one").unwrap();
        fs::write(root.join("b.rs"), "two").unwrap();
        let list = digests(&root, &["a.rs".to_owned(), "b.rs".to_owned()].into()).unwrap();
        fs::write(root.join(DIGESTS), list).unwrap();
        compare_digests(&root).unwrap();
        fs::write(root.join("b.rs"), "three").unwrap();
        let error = compare_digests(&root).unwrap_err().to_string();
        fs::remove_dir_all(&root).unwrap();
        assert!(error.ends_with("b.rs"), "{error}");
    }
}
