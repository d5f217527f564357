//! What lies below `/registry`: the resources that kube-apiserver watches, and what a fresh cluster has of them.

use bytes::Bytes;

/// A resource.
pub struct Resource {
    /// Its keys begin with `/registry/` and this.
    pub path: &'static str,
    /// Objects lie in namespaces.
    pub namespaced: bool,
    /// Objects of a fresh cluster.
    pub count: usize,
    /// Bytes of a value, about.
    pub size: usize,
}

const fn resource(path: &'static str, namespaced: bool, count: usize, size: usize) -> Resource {
    Resource { path, namespaced, count, size }
}

/// The built-in resources of Kubernetes 1.36, each of which has a connection and a watch.
pub const RESOURCES: [Resource; 58] = [
    resource("admissionregistration.k8s.io/mutatingadmissionpolicies", false, 0, 600),
    resource("admissionregistration.k8s.io/mutatingadmissionpolicybindings", false, 0, 300),
    resource("apiextensions.k8s.io/customresourcedefinitions", false, 4, 40_000),
    resource("apiregistration.k8s.io/apiservices", false, 30, 900),
    resource("certificatesigningrequests", false, 3, 2_500),
    resource("clusterrolebindings", false, 55, 400),
    resource("clusterroles", false, 70, 860),
    resource("configmaps", true, 16, 2_900),
    resource("controllerrevisions", true, 3, 1_800),
    resource("controllers", true, 0, 1_500),
    resource("cronjobs", true, 2, 1_700),
    resource("csidrivers", false, 1, 300),
    resource("csinodes", false, 0, 250),
    resource("csistoragecapacities", true, 0, 400),
    resource("daemonsets", true, 2, 3_200),
    resource("deployments", true, 8, 2_800),
    resource("deviceclasses", false, 0, 300),
    resource("endpointslices", true, 10, 900),
    resource("events", true, 0, 560),
    resource("flowschemas", false, 13, 650),
    resource("horizontalpodautoscalers", true, 1, 1_200),
    resource("ingress", true, 2, 1_100),
    resource("ingressclasses", false, 1, 300),
    resource("ipaddresses", false, 10, 350),
    resource("jobs", true, 3, 2_200),
    resource("leases", true, 0, 415),
    resource("limitranges", true, 1, 300),
    resource("minions", false, 0, 9_000),
    resource("mutatingwebhookconfigurations", false, 1, 2_400),
    resource("namespaces", false, 6, 300),
    resource("networkpolicies", true, 2, 500),
    resource("persistentvolumeclaims", true, 4, 900),
    resource("persistentvolumes", false, 4, 1_100),
    resource("poddisruptionbudgets", true, 2, 700),
    resource("pods", true, 0, 6_000),
    resource("podtemplates", true, 0, 1_000),
    resource("priorityclasses", false, 2, 400),
    resource("prioritylevelconfigurations", false, 8, 450),
    resource("replicasets", true, 8, 2_300),
    resource("resourceclaims", true, 0, 500),
    resource("resourceclaimtemplates", true, 0, 500),
    resource("resourcequotas", true, 1, 400),
    resource("resourceslices", false, 0, 800),
    resource("rolebindings", true, 14, 420),
    resource("roles", true, 14, 450),
    resource("runtimeclasses", false, 1, 250),
    resource("secrets", true, 6, 120_000),
    resource("serviceaccounts", true, 45, 120),
    resource("servicecidrs", false, 1, 300),
    resource("services/endpoints", true, 10, 350),
    resource("services/specs", true, 10, 750),
    resource("statefulsets", true, 2, 2_600),
    resource("storageclasses", false, 1, 350),
    resource("validatingadmissionpolicies", false, 0, 700),
    resource("validatingadmissionpolicybindings", false, 0, 300),
    resource("validatingwebhookconfigurations", false, 1, 2_400),
    resource("volumeattachments", false, 0, 600),
    resource("volumeattributesclasses", false, 0, 250),
];

const NAMESPACES: [&str; 4] = ["default", "kube-public", "kube-system", "monitoring"];

impl Resource {
    /// By its path.
    pub fn named(path: &str) -> &'static Resource {
        RESOURCES.iter().find(|resource| resource.path == path).unwrap_or_else(|| panic!("no resource {path}"))
    }

    /// What its keys begin with.
    pub fn prefix(&self) -> String {
        format!("/registry/{}/", self.path)
    }

    /// The key of its nth object.
    pub fn key(&self, n: usize) -> Bytes {
        let name = format!("{}-{n}", self.path.rsplit('/').next().unwrap());
        if self.namespaced { self.key_in(NAMESPACES[n % NAMESPACES.len()], &name) } else { self.key_of(&name) }
    }

    /// The key of an object in a namespace.
    pub fn key_in(&self, namespace: &str, name: &str) -> Bytes {
        format!("/registry/{}/{namespace}/{name}", self.path).into()
    }

    /// The key of an object in none.
    pub fn key_of(&self, name: &str) -> Bytes {
        format!("/registry/{}/{name}", self.path).into()
    }
}
