//! What lies below `/registry` in a small cluster: the keys that Kubernetes writes, with values of its shape and size.

use prost::Message;

/// A key with its value, and the lease it hangs on (0: none).
pub struct Entry {
    /// `/registry/...`
    pub key: String,
    /// An object, wrapped as kube-apiserver wraps it.
    pub value: Vec<u8>,
    /// Lease id.
    pub lease: i64,
}

const EVENTS: i64 = 0x1001;
const MASTERS: i64 = 0x1002;

/// Leases that entries hang on.
pub const LEASES: [i64; 2] = [EVENTS, MASTERS];

/// `runtime.TypeMeta`
#[derive(Clone, PartialEq, Message)]
struct TypeMeta {
    #[prost(string, tag = "1")]
    api_version: String,
    #[prost(string, tag = "2")]
    kind: String,
}

/// `runtime.Unknown`, which follows the four magic bytes of a stored object.
#[derive(Clone, PartialEq, Message)]
struct Unknown {
    #[prost(message, optional, tag = "1")]
    type_meta: Option<TypeMeta>,
    #[prost(bytes, tag = "2")]
    raw: Vec<u8>,
    #[prost(string, tag = "3")]
    content_encoding: String,
    #[prost(string, tag = "4")]
    content_type: String,
}

/// The part of `ObjectMeta` that every object has.
#[derive(Clone, PartialEq, Message)]
struct ObjectMeta {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(string, tag = "5")]
    uid: String,
    #[prost(int64, tag = "7")]
    generation: i64,
}

/// Metadata, and a specification of which only the size matters.
#[derive(Clone, PartialEq, Message)]
struct Object {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(bytes, tag = "2")]
    spec: Vec<u8>,
}

/// Bytes that neither repeat nor compress well, the same in every run.
fn filler(seed: &str, size: usize) -> Vec<u8> {
    let mut state =
        seed.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (state >> 33) as u8
    };
    (0..size).map(|_| next()).collect()
}

fn uid(seed: &str) -> String {
    let hex: String = filler(seed, 16).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn entry(path: &str, api_version: &str, kind: &str, size: usize) -> Entry {
    let parts: Vec<&str> = path.split('/').collect();
    let namespaced = parts.len() > 2;
    let metadata = ObjectMeta {
        name: parts[parts.len() - 1].into(),
        namespace: if namespaced { parts[parts.len() - 2].into() } else { String::new() },
        uid: uid(path),
        generation: 1,
    };
    let object = Object { metadata: Some(metadata), spec: filler(path, size) };
    let unknown = Unknown {
        type_meta: Some(TypeMeta { api_version: api_version.into(), kind: kind.into() }),
        raw: object.encode_to_vec(),
        ..Default::default()
    };
    let mut value = b"k8s\0".to_vec();
    unknown.encode(&mut value).unwrap();
    Entry { key: format!("/registry/{path}"), value, lease: 0 }
}

/// Objects of aggregated and custom types are stored as JSON.
fn json(path: &str, api_version: &str, kind: &str, size: usize) -> Entry {
    let name = path.rsplit('/').next().unwrap();
    let padding: String = filler(path, size / 2).iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!(
        r#"{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{{"name":"{name}","uid":"{}"}},"spec":{{"padding":"{padding}"}}}}"#,
        uid(path)
    );
    Entry { key: format!("/registry/{path}"), value: text.into_bytes(), lease: 0 }
}

const NAMESPACES: [&str; 5] = ["default", "kube-node-lease", "kube-public", "kube-system", "monitoring"];
const CONTROLLERS: [&str; 24] = [
    "attachdetach",
    "certificate",
    "clusterrole-aggregation",
    "cronjob",
    "daemon-set",
    "deployment",
    "disruption",
    "endpoint",
    "endpointslice",
    "ephemeral-volume",
    "expand",
    "generic-garbage-collector",
    "horizontal-pod-autoscaler",
    "job",
    "namespace",
    "node",
    "persistent-volume-binder",
    "pod-garbage-collector",
    "pv-protection",
    "replicaset",
    "resourcequota",
    "root-ca-cert-publisher",
    "service-account",
    "statefulset",
];
const NODES: [&str; 3] = ["pi-1", "pi-2", "pi-3"];

/// About two hundred keys: a control plane, three nodes, DNS, and a handful of workloads.
pub fn small_cluster() -> Vec<Entry> {
    let mut all = Vec::new();
    for namespace in NAMESPACES {
        all.push(entry(&format!("namespaces/{namespace}"), "v1", "Namespace", 220));
        all.push(entry(&format!("configmaps/{namespace}/kube-root-ca.crt"), "v1", "ConfigMap", 2_700));
        all.push(entry(&format!("serviceaccounts/{namespace}/default"), "v1", "ServiceAccount", 90));
    }
    for controller in CONTROLLERS {
        all.push(entry(&format!("serviceaccounts/kube-system/{controller}-controller"), "v1", "ServiceAccount", 90));
        let role = format!("system:controller:{controller}-controller");
        all.push(entry(&format!("clusterroles/{role}"), "rbac.authorization.k8s.io/v1", "ClusterRole", 700));
        all.push(entry(&format!("clusterrolebindings/{role}"), "rbac.authorization.k8s.io/v1", "ClusterRoleBinding", 380));
    }
    for role in ["admin", "cluster-admin", "edit", "view", "system:node", "system:discovery", "system:kube-scheduler"] {
        all.push(entry(&format!("clusterroles/{role}"), "rbac.authorization.k8s.io/v1", "ClusterRole", 3_500));
    }
    for group in [
        "v1",
        "v1.apps",
        "v1.batch",
        "v1.autoscaling",
        "v2.autoscaling",
        "v1.policy",
        "v1.networking.k8s.io",
        "v1.storage.k8s.io",
        "v1.rbac.authorization.k8s.io",
        "v1.coordination.k8s.io",
        "v1.discovery.k8s.io",
        "v1.scheduling.k8s.io",
    ] {
        let name = if group == "v1" { "v1.".to_owned() } else { group.to_owned() };
        all.push(json(&format!("apiregistration.k8s.io/apiservices/{name}"), "apiregistration.k8s.io/v1", "APIService", 800));
    }
    for role in
        ["extension-apiserver-authentication-reader", "leader-locking-kube-controller-manager", "leader-locking-kube-scheduler"]
    {
        let role = format!("system::{role}");
        all.push(entry(&format!("roles/kube-system/{role}"), "rbac.authorization.k8s.io/v1", "Role", 400));
        all.push(entry(&format!("rolebindings/kube-system/{role}"), "rbac.authorization.k8s.io/v1", "RoleBinding", 420));
    }
    for config in ["coredns", "extension-apiserver-authentication", "kubeadm-config", "kubelet-config", "kube-proxy"] {
        all.push(entry(&format!("configmaps/kube-system/{config}"), "v1", "ConfigMap", 1_400));
    }
    for node in NODES {
        all.push(entry(&format!("minions/{node}"), "v1", "Node", 9_000));
        all.push(entry(&format!("leases/kube-node-lease/{node}"), "coordination.k8s.io/v1", "Lease", 340));
        all.push(entry(&format!("csinodes/{node}"), "storage.k8s.io/v1", "CSINode", 250));
    }
    for component in ["kube-controller-manager", "kube-scheduler", "apiserver-gnvk3w6m4q2yjb2p"] {
        all.push(entry(&format!("leases/kube-system/{component}"), "coordination.k8s.io/v1", "Lease", 400));
    }
    for (namespace, service) in [("default", "kubernetes"), ("kube-system", "kube-dns"), ("monitoring", "prometheus")] {
        all.push(entry(&format!("services/specs/{namespace}/{service}"), "v1", "Service", 700));
        all.push(entry(&format!("services/endpoints/{namespace}/{service}"), "v1", "Endpoints", 300));
        all.push(entry(&format!("endpointslices/{namespace}/{service}-abcde"), "discovery.k8s.io/v1", "EndpointSlice", 500));
    }
    for (namespace, workload, replicas) in [("kube-system", "coredns", 2), ("monitoring", "prometheus", 1), ("default", "web", 3)]
    {
        all.push(entry(&format!("deployments/{namespace}/{workload}"), "apps/v1", "Deployment", 2_800));
        all.push(entry(&format!("replicasets/{namespace}/{workload}-6d4b75cb6d"), "apps/v1", "ReplicaSet", 2_300));
        for replica in 0..replicas {
            all.extend(pod(namespace, &format!("{workload}-6d4b75cb6d-{replica}aaaa")));
        }
    }
    for class in ["system-cluster-critical", "system-node-critical"] {
        all.push(entry(&format!("priorityclasses/{class}"), "scheduling.k8s.io/v1", "PriorityClass", 300));
    }
    for level in
        ["catch-all", "exempt", "global-default", "leader-election", "node-high", "system", "workload-high", "workload-low"]
    {
        all.push(entry(
            &format!("prioritylevelconfigurations/{level}"),
            "flowcontrol.apiserver.k8s.io/v1",
            "PriorityLevelConfiguration",
            350,
        ));
        all.push(entry(&format!("flowschemas/{level}"), "flowcontrol.apiserver.k8s.io/v1", "FlowSchema", 600));
    }
    let definition = "apiextensions.k8s.io/customresourcedefinitions/backups.example.com";
    all.push(json(definition, "apiextensions.k8s.io/v1", "CustomResourceDefinition", 40_000));
    all.push(json("example.com/backups/default/nightly", "example.com/v1", "Backup", 600));
    all.push(entry("secrets/default/sh.helm.release.v1.web.v1", "v1", "Secret", 120_000));
    all.push(entry("ranges/serviceips", "v1", "RangeAllocation", 8_200));
    all.push(entry("ranges/servicenodeports", "v1", "RangeAllocation", 400));
    all.push(Entry { lease: MASTERS, ..entry("masterleases/192.168.1.10", "v1", "Endpoints", 40) });
    all
}

/// A pod, and what its birth leaves in the store beside it.
pub fn pod(namespace: &str, name: &str) -> Vec<Entry> {
    let mut all = vec![entry(&format!("pods/{namespace}/{name}"), "v1", "Pod", 4_800)];
    for suffix in ["18a1f0c2d3e4b5a6", "18a1f0c3a1b2c3d4"] {
        all.push(Entry { lease: EVENTS, ..entry(&format!("events/{namespace}/{name}.{suffix}"), "v1", "Event", 560) });
    }
    all
}
