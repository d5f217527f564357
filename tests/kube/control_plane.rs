//! kube-apiserver, kube-controller-manager and kube-scheduler as processes on loopback.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rcgen::{ExtendedKeyUsagePurpose as Usage, KeyPair};
use tempfile::TempDir;

use super::kubectl::Kubectl;
use crate::support::server::free_port;
use crate::support::wait::until;
use crate::support::{Certs, Server, oracle};

/// What the apiserver tells the cluster its address is. It must not be loopback's (validation of Endpoints refuses that), and
/// nothing ever connects to it here: an address that is nobody's (RFC 5737).
const ADVERTISED: &str = "--advertise-address=198.51.100.1";
const SERVICES: &str = "--service-cluster-ip-range=10.96.0.0/16";

/// A control plane without nodes. Killed when dropped.
pub struct ControlPlane {
    kubectl: Kubectl,
    components: Vec<Component>,
    _dir: TempDir,
}

impl ControlPlane {
    /// Starts the three on `server` and waits until the apiserver is ready and the other two lead.
    pub fn start(server: &Server) -> ControlPlane {
        let dir = tempfile::Builder::new().prefix("bramble-kube-").tempdir().unwrap();
        let files = Files::write(dir.path(), server);
        let kubectl = Kubectl::new(dir.path(), files.kubeconfig("admin"));
        let mut plane = ControlPlane { kubectl, components: Vec::new(), _dir: dir };
        plane.run(files.apiserver(server));
        until("the apiserver to be ready", || {
            plane.assert_running();
            plane.kubectl.try_raw("/readyz").filter(|answer| answer == "ok")
        });
        plane.run(files.follower("kube-controller-manager", &files.controller_manager()));
        plane.run(files.follower("kube-scheduler", &[]));
        for name in ["kube-controller-manager", "kube-scheduler"] {
            until(&format!("{name} to lead"), || {
                plane.assert_running();
                plane.kubectl.try_json(&["get", "lease", name, "-n", "kube-system"])?["spec"]["holderIdentity"]
                    .as_str()
                    .map(|_| ())
            });
        }
        plane
    }

    fn run(&mut self, (name, command): (&'static str, Command)) {
        self.components.push(Component::start(self._dir.path(), name, command));
    }

    /// Its administrator's client.
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// None has ended: a controller that panics, or that loses its lease, does.
    #[track_caller]
    pub fn assert_running(&mut self) {
        for component in &mut self.components {
            let ended = component.child.try_wait().unwrap();
            assert!(ended.is_none(), "{} has ended: {}", component.name, ended.unwrap());
        }
    }

    /// What each has logged so far.
    pub fn logs(&self) -> Vec<(&'static str, String)> {
        self.components.iter().map(|component| (component.name, component.log())).collect()
    }
}

/// One process; its log is shown if the test fails.
struct Component {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Component {
    fn start(dir: &Path, name: &'static str, mut command: Command) -> Component {
        let log = dir.join(format!("{name}.log"));
        let file = File::create(&log).unwrap();
        let child = command
            .env_clear()
            .env("HOME", dir)
            .env("KUBE_WATCHCACHE_CONSISTENCY_CHECKER", "true")
            .env("KUBE_PANIC_WATCH_DECODE_ERROR", "true")
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Component { name, child, log }
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Component {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the log of {} ends with\n{}", self.name, lines[lines.len().saturating_sub(15)..].join("\n"));
        }
    }
}

/// Certificates, keys and kubeconfigs, as kubeadm lays them out, and the command lines that name them.
struct Files {
    dir: PathBuf,
    certs: Certs,
    port: u16,
}

impl Files {
    fn write(dir: &Path, server: &Server) -> Files {
        server.certs().expect("mutual TLS").issue(
            "apiserver-etcd-client",
            "kube-apiserver-etcd-client",
            None,
            &[Usage::ClientAuth],
        );
        let certs = Certs::create(&dir.join("pki"));
        let files = Files { dir: dir.to_path_buf(), certs, port: free_port() };
        files.user("admin", "kubernetes-admin", Some("system:masters"));
        files.user("kube-controller-manager", "system:kube-controller-manager", None);
        files.user("kube-scheduler", "system:kube-scheduler", None);
        let key = KeyPair::generate().unwrap();
        fs::write(files.path("sa.key"), key.serialize_pem()).unwrap();
        fs::write(files.path("sa.pub"), key.public_key_pem()).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn kubeconfig(&self, user: &str) -> PathBuf {
        self.path(&format!("{user}.conf"))
    }

    /// A client certificate and the kubeconfig that names it. JSON is YAML.
    fn user(&self, file: &str, name: &str, group: Option<&str>) {
        self.certs.issue(file, name, group, &[Usage::ClientAuth]);
        let (cert, key) = self.certs.pair(file);
        let server = format!("https://127.0.0.1:{}", self.port);
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": server, "certificate-authority": self.certs.ca()}}],
            "users": [{"name": name, "user": {"client-certificate": cert, "client-key": key}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": name}}],
        });
        fs::write(self.kubeconfig(file), config.to_string()).unwrap();
    }

    fn flag(&self, name: &str, path: &Path) -> String {
        format!("--{name}={}", path.display())
    }

    fn apiserver(&self, server: &Server) -> (&'static str, Command) {
        let etcd = server.certs().expect("mutual TLS");
        let (etcd_cert, etcd_key) = etcd.pair("apiserver-etcd-client");
        let (cert, key) = self.certs.pair("server");
        let mut command = Command::new(oracle("kube-apiserver"));
        command.args([
            format!("--etcd-servers={}", server.url()),
            self.flag("etcd-cafile", &etcd.ca()),
            self.flag("etcd-certfile", &etcd_cert),
            self.flag("etcd-keyfile", &etcd_key),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.port),
            ADVERTISED.to_owned(),
            SERVICES.to_owned(),
            self.flag("tls-cert-file", &cert),
            self.flag("tls-private-key-file", &key),
            self.flag("client-ca-file", &self.certs.ca()),
            self.flag("requestheader-client-ca-file", &self.certs.ca()),
            "--requestheader-allowed-names=front-proxy-client".to_owned(),
            "--requestheader-username-headers=X-Remote-User".to_owned(),
            "--requestheader-group-headers=X-Remote-Group".to_owned(),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            self.flag("service-account-key-file", &self.path("sa.pub")),
            self.flag("service-account-signing-key-file", &self.path("sa.key")),
        ]);
        ("kube-apiserver", command)
    }

    fn follower(&self, name: &'static str, more: &[String]) -> (&'static str, Command) {
        let config = self.kubeconfig(name);
        let mut command = Command::new(oracle(name));
        command.args([
            self.flag("kubeconfig", &config),
            self.flag("authentication-kubeconfig", &config),
            self.flag("authorization-kubeconfig", &config),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", free_port()),
            self.flag("cert-dir", &self.path(&format!("{name}-pki"))),
            "--leader-elect=true".to_owned(),
        ]);
        command.args(more);
        (name, command)
    }

    fn controller_manager(&self) -> Vec<String> {
        vec![
            "--use-service-account-credentials=true".to_owned(),
            self.flag("service-account-private-key-file", &self.path("sa.key")),
            self.flag("root-ca-file", &self.certs.ca()),
            SERVICES.to_owned(),
        ]
    }
}
