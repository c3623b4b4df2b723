//! Files that ask to be split: more than 500 lines before their tests.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::cmd;

const LIMIT: usize = 500;

/// Fails with every source file over the limit.
pub(crate) fn check() -> anyhow::Result<()> {
    let root = cmd::root();
    let mut files = Vec::new();
    for folder in ["crates", "bins", "examples", "benches", "xtask"] {
        collect(&root.join(folder), &mut files)?;
    }
    let mut wrong = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let lines = lines_before_tests(&text);
        if lines > LIMIT {
            let name = file.strip_prefix(&root).unwrap_or(file);
            wrong.push(format!(
                "{} has {lines} lines before its tests, the limit is {LIMIT}",
                name.display()
            ));
        }
    }
    if !wrong.is_empty() {
        bail!("size:\n  {}", wrong.join("\n  "));
    }
    cmd::say(&format!("size: {} files, none over {LIMIT} lines", files.len()));
    Ok(())
}

fn lines_before_tests(text: &str) -> usize {
    let lines: Vec<_> = text.lines().collect();
    lines
        .windows(2)
        .position(|pair| {
            let module = pair[1].strip_prefix("pub(crate) ").unwrap_or(pair[1]);
            pair[0].starts_with("#[cfg(test)]") && module.starts_with("mod ") && module.ends_with('{')
        })
        .unwrap_or(lines.len())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if path.is_dir() {
            // Whole files of tests may be long; build output is not ours.
            if !matches!(name, "target" | "tests" | "corpus") {
                collect(&path, files)?;
            }
        } else if name.ends_with(".rs") && name != "tests.rs" {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_do_not_count() {
        assert_eq!(lines_before_tests("a\nb\n#[cfg(test)]\nmod tests {\n}\n"), 2);
        assert_eq!(lines_before_tests("a\n#[cfg(test)]\nuse x;\nb\n"), 4);
    }
}
