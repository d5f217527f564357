//! The way in: arguments and environment to a running server or an exit code.
//!
//! Exit codes: 0 after a clean end, 1 for whatever kept the server from starting or ended it, 2 for a command line that cannot be read.

mod serve;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::config::{self, Cause, Command, Config, ETCD_VERSION, Notice, Program, Refusal};
use crate::error::Fault;
use crate::logging;

pub use serve::serve;

/// Exit code of a command line that cannot be read.
const USAGE: u8 = 2;
/// Exit code of every other failure.
const FAILURE: u8 = 1;

/// Runs the program: `args` with its name first, `env` as names and values; `serve` runs the server until it ends.
pub fn run(
    args: impl IntoIterator<Item = OsString>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
    serve: impl FnOnce(Config) -> Result<(), Fault>,
) -> ExitCode {
    let mut args = args.into_iter();
    let path = args.next().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    let program = Program::named(&path);
    let name = name(program);
    let args = match args.map(OsString::into_string).collect::<Result<Vec<String>, OsString>>() {
        Ok(args) => args,
        Err(arg) => return wrong_usage(name, &format!("argument is not UTF-8: {}", arg.to_string_lossy())),
    };
    if let Some(command @ ("gateway" | "grpc-proxy")) = args.first().map(String::as_str) {
        complain(&format!("{name} {command} is not offered: point clients at the members themselves\n"));
        return ExitCode::from(FAILURE);
    }
    // What is not UTF-8 can be no value of a flag. Its name is kept, so that it is noted or conflicts as it should.
    let env: Vec<(String, String)> =
        env.into_iter().map(|(key, value)| (key.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())).collect();
    match config::read(program, &args, &env) {
        Ok(Command::Help) => {
            complain(&format!("{}\n", config::usage(name)));
            print(&format!("{}\n", config::help()))
        }
        Ok(Command::Version) => print(&version(program)),
        Ok(Command::Serve(config)) => start(*config, serve),
        Err(refusal) => refuse(name, &refusal),
    }
}

fn name(program: Program) -> &'static str {
    match program {
        Program::Etcd => "etcd",
        Program::Bramble => "bramble",
    }
}

fn start(config: Config, serve: impl FnOnce(Config) -> Result<(), Fault>) -> ExitCode {
    if let Err(fault) = logging::install(&config.log) {
        complain(&format!("{fault}\n"));
        return ExitCode::from(FAILURE);
    }
    say(&config.notices);
    let result = serve(config);
    if let Err(fault) = &result {
        log::error!(target: logging::FATAL, error:% = fault; "the server has ended");
    }
    log::logger().flush();
    ExitCode::from(if result.is_ok() { 0 } else { FAILURE })
}

fn refuse(name: &str, refusal: &Refusal) -> ExitCode {
    if let Cause::Usage(text) = &refusal.cause {
        return wrong_usage(name, text);
    }
    if let Err(fault) = logging::install(&refusal.log) {
        complain(&format!("{fault}\n"));
    }
    say(&refusal.notices);
    match &refusal.cause {
        Cause::Usage(text) | Cause::Flags(text) => log::error!(error = text.as_str(); "failed to verify flags"),
        Cause::Conflict(variable) => log::error!(
            target: logging::FATAL,
            "environment-variable" = variable.as_str();
            "conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag))"
        ),
    }
    log::logger().flush();
    ExitCode::from(FAILURE)
}

fn say(notices: &[Notice]) {
    for notice in notices {
        let fields = Fields(&notice.fields);
        log::logger().log(
            &log::Record::builder()
                .level(notice.level)
                .target(module_path!())
                .module_path_static(Some(module_path!()))
                .file_static(Some(file!()))
                .line(Some(line!()))
                .key_values(&fields)
                .args(format_args!("{}", notice.message))
                .build(),
        );
    }
}

/// A notice's fields as the `log` crate takes them.
struct Fields<'a>(&'a [(&'static str, String)]);

impl log::kv::Source for Fields<'_> {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn log::kv::VisitSource<'kvs>) -> Result<(), log::kv::Error> {
        self.0.iter().try_for_each(|(key, value)| visitor.visit_pair((*key).into(), value.as_str().into()))
    }
}

fn wrong_usage(name: &str, text: &str) -> ExitCode {
    complain(&format!("{text}\n{}\n", config::usage(name)));
    ExitCode::from(USAGE)
}

/// As etcd the lines that scripts read; the commit is not known to a build from a release.
fn version(program: Program) -> String {
    let own = env!("CARGO_PKG_VERSION");
    let platform = format!("{}/{}", std::env::consts::OS, go_arch(std::env::consts::ARCH));
    match program {
        Program::Etcd => format!(
            "etcd Version: {ETCD_VERSION}\nGit SHA: {}\nGo Version: none (bramble {own}, Rust)\nGo OS/Arch: {platform}\n",
            option_env!("BRAMBLE_GIT_SHA").unwrap_or("not provided")
        ),
        Program::Bramble => format!("bramble {own}\netcd Version: {ETCD_VERSION}\nOS/Arch: {platform}\n"),
    }
}

/// Go's name of an architecture.
fn go_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

/// To stdout; a closed pipe is a failure, but no panic.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILURE),
    }
}

/// To stderr; if that fails there is nobody to tell.
fn complain(text: &str) {
    _ = io::stderr().lock().write_all(text.as_bytes());
}
