//! Command lines and environments.
//!
//! Input: text. Lines up to the first empty one are arguments, those behind it variables.

use bramble::config::{self, Cause, Command, Config, Program, Refusal};

pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (args, env) = text.split_once("\n\n").unwrap_or((&text, ""));
    let args: Vec<String> = args.split('\n').map(str::to_owned).collect();
    let env: Vec<(String, String)> =
        env.split('\n').filter_map(|line| line.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    // A file would make the outcome hang on the machine.
    if names_a_file(&args) || env.iter().any(|(key, _)| key == "ETCD_CONFIG_FILE") {
        return;
    }
    for program in [Program::Bramble, Program::Etcd] {
        let outcome = config::read(program, &args, &env);
        match &outcome {
            Ok(Command::Serve(config)) => {
                check_config(config);
                check_spellings(program, &args, &env, config);
            }
            Ok(Command::Help | Command::Version) => {}
            Err(refusal) => check_refusal(refusal, &args, &env),
        }
        assert_eq!(shown(&config::read(program, &args, &env)), shown(&outcome), "the same input has the same outcome");
    }
}

fn names_a_file(args: &[String]) -> bool {
    args.iter().any(|arg| arg.trim_start_matches('-').starts_with("config-file"))
}

fn shown(outcome: &Result<Command, Box<Refusal>>) -> String {
    format!("{outcome:?}")
}

/// What [`Config`] promises to whoever uses it.
pub fn check_config(config: &Config) {
    assert!(!config.listen_client_urls.is_empty(), "somewhere it listens");
    assert!(!config.data_dir.as_os_str().is_empty(), "it has a data directory");
    assert!(config.heartbeat_interval.as_millis() > 0 && config.election_timeout >= config.heartbeat_interval * 5);
    assert!(config.min_lease_ttl.as_secs() >= 1);
    assert!(config.watch_progress_notify_interval.as_millis() >= 100);
    assert!(config.max_request_bytes > 0 && config.max_request_bytes < u32::MAX as usize);
    assert!(config.initial_cluster.windows(2).all(|pair| pair[0].0 < pair[1].0), "members in the order of their names");
    assert!(config.request_timeout() > config.election_timeout);
}

/// A refusal says what it is about.
fn check_refusal(refusal: &Refusal, args: &[String], env: &[(String, String)]) {
    match &refusal.cause {
        Cause::Usage(text) => {
            let named = args.iter().any(|arg| text.contains(arg.split('=').next().unwrap_or(arg).trim_start_matches('-')));
            assert!(named, "{text:?} names none of {args:?}");
        }
        Cause::Flags(text) => assert!(!text.is_empty()),
        Cause::Conflict(variable) => assert!(env.iter().any(|(key, _)| key == variable), "{variable} is not set"),
    }
}

/// The same flags in another of Go's spellings, and as variables, make the same configuration.
fn check_spellings(program: Program, args: &[String], env: &[(String, String)], config: &Config) {
    let Some(flags) = plain(args) else { return };
    let spelled = |args: &[String], env: &[(String, String)]| match config::read(program, args, env) {
        Ok(Command::Serve(other)) => {
            let other = Config { notices: config.notices.clone(), ..*other };
            assert_eq!(format!("{other:?}"), format!("{config:?}"), "{args:?} {env:?}");
        }
        other => panic!("{args:?} {env:?} is not as good: {other:?}"),
    };
    let short: Vec<String> = flags.iter().map(|(name, value)| format!("-{name}={value}")).collect();
    spelled(&short, env);
    // A variable that is empty counts as not set, and one that is there twice is none that a shell could make.
    let repeated = |name: &str| flags.iter().filter(|(other, _)| other == name).count() > 1;
    if env.is_empty() && flags.iter().all(|(name, value)| !value.is_empty() && !repeated(name) && has_variable(name)) {
        let variable = |name: &str| format!("ETCD_{}", name.to_ascii_uppercase().replace('-', "_"));
        let env: Vec<(String, String)> = flags.iter().map(|(name, value)| (variable(name), value.clone())).collect();
        spelled(&[], &env);
    }
}

/// `--version` is no setting.
fn has_variable(name: &str) -> bool {
    name != "version" && !name.contains(|letter: char| letter.is_ascii_uppercase() || letter == '_')
}

/// The flags, if all are given as `--name=value`.
fn plain(args: &[String]) -> Option<Vec<(String, String)>> {
    args.iter()
        .map(|arg| {
            let (name, value) = arg.strip_prefix("--")?.split_once('=')?;
            (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
        })
        .collect()
}
