use crate::support::requests::{Revision, key, put};
use crate::support::{Etcdctl, Security, Server, Version};

#[test]
fn a_server_answers_over_every_transport() {
    for security in [Security::Plain, Security::Tls, Security::Mutual] {
        let server = Server::builder().security(security).start();
        let client = server.client();
        assert_eq!(client.call(&put("a", "1")).revision(), 2);
        assert_eq!(client.call(&key("a")).kvs[0].value, "1");
        for version in [Version::V34, Version::V37] {
            assert_eq!(Etcdctl::new(version, &server).stdout(&["get", "a"]), "a\n1\n");
        }
    }
}
