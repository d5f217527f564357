//! Runs a server: the store first, then the sockets, until a signal or a fault ends it.

use std::num::NonZero;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use async_signal::{Signal, Signals};
use futures_lite::{StreamExt, future};
use smol::{Executor, channel};

use crate::config::{self, Config, ListenAddr, ListenUrl, Tls};
use crate::error::Fault;
use crate::host::{self, Host};
use crate::rpc::endpoints::Served;
use crate::rpc::front::{Front, Offer, Settings};
use crate::rpc::http::Endpoints;
use crate::rpc::listen::Listener;
use crate::rpc::services::{Api, Limits};
use crate::rpc::timers::{SystemTimers, Timers};
use crate::rpc::tls::{TlsAcceptor, with_auto_certificate};
use crate::server::Server;
use crate::wal::Metered;

/// Time for calls that run when the server is asked to stop.
const DRAIN: Duration = Duration::from_secs(5);
/// More threads than this have nothing to do beside the loop and the disks of a small board.
const MAX_EXECUTORS: usize = 4;

/// Serves until SIGTERM or SIGINT, and then ends by that signal, or by returning 0 as a container's first process.
///
/// # Errors
/// The fault that kept the server from starting, or ended it.
pub fn serve(config: Config) -> Result<(), Fault> {
    host::share_one_heap();
    let host = Host::real();
    // Signals that come from here on are kept until they are looked for.
    let mut signals =
        Signals::new([Signal::Term, Signal::Int]).map_err(|e| Fault::new(format!("cannot wait for signals: {e}")))?;
    if !config.data_dir.join("member").exists() {
        config.verify_bootstrap(config::resolve)?;
    }
    // Sockets first: an address in use is a matter of a moment, and the store's start may take longer.
    let sockets = Sockets::bind(&config)?;
    let Some(server) = start(&config, &host, &mut signals)? else { return Ok(()) };
    let executors = start_executors()?;
    let timers: Arc<dyn Timers> = Arc::new(SystemTimers::new(host.clock.clone()));
    let front = Front::new(Settings::of(&config), executors.clone(), timers.clone());
    let clients = Served::clients(&config, server.handle(), timers.clone());
    let metrics = Served::metrics(&config, server.handle(), timers.clone());
    let api = Api::new(server.handle(), Limits::of(&config), timers, &host);
    for (listener, kind) in sockets.0 {
        let services = matches!(kind, Kind::Both | Kind::GrpcOnly).then(|| api.clone() as _);
        let endpoints: Option<Arc<dyn Endpoints>> = match kind {
            Kind::Both | Kind::HttpOnly => Some(clients.clone()),
            Kind::Metrics => Some(metrics.clone()),
            Kind::GrpcOnly => None,
        };
        executors[0].spawn(front.clone().accept(listener, Offer { services, endpoints })).detach();
    }
    log::info!("ready to serve client requests");
    let asked = async {
        let signal = signals.next().await?.ok()?;
        log::info!("received {}: shutting down", name(signal));
        Some(signal)
    };
    let signal = future::block_on(future::or(asked, async {
        server.ended().await;
        None
    }));
    server.begin_stop();
    future::block_on(front.shutdown(DRAIN));
    server.stop();
    server.wait()?;
    log::info!("stopped");
    if let Some(signal) = signal {
        end_by(signal);
    }
    Ok(())
}

/// Starts the store. A signal that comes before it can serve ends the process at once, however long a disk makes it wait: a start
/// may be cut short anywhere. None if that signal did not end us.
fn start(config: &Config, host: &Host, signals: &mut Signals) -> Result<Option<Server>, Fault> {
    let (begun, has_begun) = channel::bounded(1);
    let (config, host) = (config.clone(), host.clone());
    let work = move || {
        // Nobody listens if a signal was faster.
        let _ = begun.send_blocking(Server::start(&config, host, Arc::new(Metered)));
    };
    let spawned = thread::Builder::new().name("start".into()).spawn(work);
    spawned.map_err(|e| Fault::new(format!("cannot start a thread: {e}")))?;
    let begun = async { Ok(has_begun.recv().await.expect("a panic would have ended the process")) };
    let asked = async {
        match signals.next().await {
            Some(Ok(signal)) => Err(signal),
            _ => future::pending().await,
        }
    };
    match future::block_on(future::or(begun, asked)) {
        Ok(server) => server.map(Some),
        Err(signal) => {
            log::info!("received {} while starting: leaving at once", name(signal));
            end_by(signal);
            Ok(None)
        }
    }
}

fn name(signal: Signal) -> &'static str {
    if signal == Signal::Int { "SIGINT" } else { "SIGTERM" }
}

/// Ends by the signal that we were asked to end by, so that whoever waits for us sees that we did as we were told. A container's
/// first process returns instead, and so do we if the signal does not end us.
fn end_by(signal: Signal) {
    if std::process::id() != 1 {
        log::logger().flush();
        let _ = signal_hook::low_level::emulate_default_handler(signal as i32);
    }
}

/// What a socket serves.
#[derive(Clone, Copy)]
enum Kind {
    Both,
    GrpcOnly,
    HttpOnly,
    Metrics,
}

struct Sockets(Vec<(Listener, Kind)>);

impl Sockets {
    fn bind(config: &Config) -> Result<Sockets, Fault> {
        let client = if config.listen_client_http_urls.is_empty() { Kind::Both } else { Kind::GrpcOnly };
        let groups = [
            (&config.listen_client_urls, client),
            (&config.listen_client_http_urls, Kind::HttpOnly),
            (&config.listen_metrics_urls, Kind::Metrics),
        ];
        // One for all, so that a change of the files is told once.
        let tls = match groups.iter().any(|(urls, _)| urls.iter().any(|url| url.tls)) {
            true => Some(TlsAcceptor::new(&client_tls(config)?)?),
            false => None,
        };
        let mut sockets = Vec::new();
        for (urls, kind) in groups {
            let listeners = Listener::bind_all(urls, tls.as_ref(), config.socket_reuse_port)?;
            sockets.extend(listeners.into_iter().map(|listener| (listener, kind)));
        }
        for url in &config.listen_peer_urls {
            log::info!("not listening for peers on {}: clusters of several members are not there yet", url.url);
        }
        Ok(Sockets(sockets))
    }
}

fn client_tls(config: &Config) -> Result<Tls, Fault> {
    let mut hosts: Vec<String> = config.listen_client_urls.iter().map(host_of).collect();
    hosts.sort();
    hosts.dedup();
    with_auto_certificate(&config.client_tls, &config.data_dir.join("fixtures").join("client"), &hosts)
}

fn host_of(url: &ListenUrl) -> String {
    match &url.addr {
        ListenAddr::Tcp(addr) => addr.ip().to_string(),
        ListenAddr::Unix(_) => "localhost".to_owned(),
    }
}

/// The threads that sockets are served on, each with an executor of its own: of threads that share one, each that finds work wakes
/// another to look for more, and for a request at a time that is most of what it costs.
fn start_executors() -> Result<Vec<Arc<Executor<'static>>>, Fault> {
    let start = |n| {
        let executor = Arc::new(Executor::new());
        let run = {
            let executor = executor.clone();
            move || future::block_on(executor.run(future::pending::<()>()))
        };
        let spawned = thread::Builder::new().name(format!("rpc-{n}")).spawn(run);
        spawned.map_err(|e| Fault::new(format!("cannot start an executor thread: {e}")))?;
        Ok(executor)
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MAX_EXECUTORS);
    (0..threads).map(start).collect()
}
