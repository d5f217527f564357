//! Golden scripts: readable stories with the output they must have.
//!
//! A script is blocks with an empty line between: commands and `#` comments, `---`, the expected output. A command in
//! parentheses does its work silently. `BLESS=1` writes the output that was got in place of the expected; read the diff.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What runs the commands of one script, from its first line to its last.
pub trait Story {
    /// Runs one command; returns lines of output.
    fn run(&mut self, command: &str) -> Vec<String>;
}

/// Plays every script in `tests/scripts/<room>`, each with a new story.
pub fn play<S: Story>(room: &str, new: impl Fn() -> S) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts").join(room);
    let mut scripts: Vec<PathBuf> = std::fs::read_dir(&dir).expect("scripts").map(|entry| entry.expect("entry").path()).collect();
    scripts.sort();
    assert!(!scripts.is_empty(), "no scripts in {}", dir.display());
    let mut failed = 0;
    for path in scripts {
        let expected = std::fs::read_to_string(&path).expect("script");
        let got = replay(&expected, &mut new());
        if got == expected {
            continue;
        }
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, got).expect("write script");
        } else {
            failed += 1;
            show_difference(&path, &expected, &got);
        }
    }
    assert_eq!(failed, 0, "scripts that differ; BLESS=1 takes the new output over");
}

fn replay(script: &str, story: &mut dyn Story) -> String {
    let blocks: Vec<String> = script.trim().split("\n\n").map(|block| replay_block(block.trim_matches('\n'), story)).collect();
    blocks.join("\n")
}

fn replay_block(block: &str, story: &mut dyn Story) -> String {
    let mut text = String::new();
    let mut output = Vec::new();
    let commands: Vec<&str> = block.lines().take_while(|line| *line != "---").collect();
    for line in &commands {
        writeln!(text, "{line}").expect("a string");
        if line.starts_with('#') {
            continue;
        }
        match line.strip_prefix('(').and_then(|line| line.strip_suffix(')')) {
            Some(silent) => drop(story.run(silent)),
            None => output.extend(story.run(line)),
        }
    }
    if commands.iter().any(|line| !line.starts_with('#')) {
        text.push_str("---\n");
    }
    output.iter().for_each(|line| writeln!(text, "{line}").expect("a string"));
    text
}

fn show_difference(path: &Path, expected: &str, got: &str) {
    let at = expected.lines().zip(got.lines()).take_while(|(a, b)| a == b).count();
    let from = |text: &str| text.lines().skip(at).take(8).map(|line| format!("    {line}\n")).collect::<String>();
    eprintln!("{} line {}\n  expected:\n{}  got:\n{}", path.display(), at + 1, from(expected), from(got));
}
