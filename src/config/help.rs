//! `--help`, made from the table of flags, so that it lists what there is.

use std::fmt::Write as _;

use super::table::FLAGS;

/// What to print on a wrong command line.
pub fn usage(program: &str) -> String {
    format!(
        "Usage:\n\n  {program} [flags]\n    Serve etcd's v3 API.\n\n  {program} --version\n    Show the version.\n\n  \
         {program} -h | --help\n    List all flags.\n\n  {program} --config-file=FILE\n    Read a YAML file; all other flags and \
         environment variables are then ignored.\n\nEach flag has a variable: ETCD_DATA_DIR for --data-dir.\n"
    )
}

/// The derive macro of the parser wants its texts to begin small.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// All flags, with defaults.
pub fn help() -> String {
    let mut text = String::new();
    let mut group = "";
    for flag in FLAGS {
        if flag.group != group {
            group = flag.group;
            _ = write!(text, "\n{group}:\n");
        }
        _ = write!(text, "  --{} '{}'\n    {}\n", flag.name, flag.default, sentence(flag.help));
        if let Some(why) = flag.inert {
            _ = writeln!(text, "    Accepted without effect: {why}.");
        }
    }
    text
}
