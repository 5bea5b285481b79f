//! `tcp://`: whoever has a certificate of the right authority builds, whoever has none learns so and nothing else, and
//! nobody waits for those who shake hands slowly.

use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use api::control::InfoRequest;
use api::control::control_client::ControlClient;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, ClientConfig, RootCertStore};
use tokio::io::AsyncReadExt as _;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use super::client::{Daemon, Entry, request, session};
use super::{offer, solve};
use crate::support::{Outcome, Store};

/// An authority, and who it knows; files in PEM form.
struct Authority(PathBuf);

fn openssl(dir: &Path, words: &str) {
    let made = Command::new("openssl").args(words.split(' ')).current_dir(dir).output();
    let made = made.expect("openssl is installed (tests/setup.sh)");
    assert!(made.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&made.stderr));
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";

impl Authority {
    /// With certificates of a server and of a client.
    fn new(dir: PathBuf) -> Self {
        std::fs::create_dir(&dir).expect("the directory is ours");
        // Two of one name would be told apart by their signatures alone.
        let name = dir.file_name().expect("it has one").to_string_lossy().into_owned();
        openssl(&dir, &format!("req -x509 {KEY} -days 2 -subj /CN={name} -keyout ca.key -out ca.pem"));
        for (name, means) in [("server", "IP:127.0.0.1"), ("client", "DNS:client")] {
            let request = format!("-subj /CN={name} -addext subjectAltName={means} -keyout {name}.key -out {name}.csr");
            openssl(&dir, &format!("req {KEY} {request}"));
            let sign = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -copy_extensions copyall";
            openssl(&dir, &format!("x509 -req -in {name}.csr {sign} -out {name}.pem"));
        }
        Self(dir)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("tests have plain paths").to_owned()
    }

    /// What a daemon is told.
    fn flags(&self) -> Vec<String> {
        let parts = [("--tlscacert", "ca.pem"), ("--tlscert", "server.pem"), ("--tlskey", "server.key")];
        parts.into_iter().flat_map(|(flag, name)| [flag.to_owned(), self.file(name)]).collect()
    }

    /// A client that believes this authority, and shows the certificate that another one gave it.
    fn client(&self, known_to: Option<&Self>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(self.0.join("ca.pem")).expect("openssl made it");
        roots.add(ca).expect("it is an authority's");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("ring knows them").with_root_certificates(roots);
        let mut config = match known_to {
            None => config.with_no_client_auth(),
            Some(other) => {
                let chain = CertificateDer::from_pem_file(other.0.join("client.pem")).expect("openssl made it");
                let key = PrivateKeyDer::from_pem_file(other.0.join("client.key")).expect("openssl made it");
                config.with_client_auth_cert(vec![chain], key).expect("they belong together")
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

fn localhost() -> ServerName<'static> {
    ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]))
}

async fn channel(address: &str, connector: TlsConnector) -> Channel {
    let address = address.to_owned();
    let connect = tower::service_fn(move |_| {
        let (address, connector) = (address.clone(), connector.clone());
        async move {
            let stream = tokio::net::TcpStream::connect(address).await?;
            connector.connect(localhost(), stream).await.map(hyper_util::rt::TokioIo::new)
        }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connect).await.expect("it serves")
}

/// What a client is told that is not let in.
async fn refused(address: &str, connector: TlsConnector) -> AlertDescription {
    let stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
    // With TLS 1.3 the client is through before the daemon has looked at its certificate. RFC 8446, 4.4.2.4.
    let error = match connector.connect(localhost(), stream).await {
        Err(error) => error,
        Ok(mut stream) => {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await.expect_err("it is not let in")
        }
    };
    match error.get_ref().and_then(|error| error.downcast_ref()) {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        _ => panic!("{error:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_clients_with_a_certificate_of_the_authority_build_over_a_network() {
    let store = Store::with_busybox();
    let (ours, foreign) = (Authority::new(store.path("ours")), Authority::new(store.path("foreign")));
    let flags = ours.flags();
    let words: Vec<&str> =
        ["--debug", "--addr", "tcp://127.0.0.1:0"].into_iter().chain(flags.iter().map(String::as_str)).collect();
    let daemon = Daemon::start_with(&store, &words);
    let (_, address) = daemon.serving.split_once("tcp://").expect("it says where");

    // Neither who says nothing nor who stops in the middle of a handshake holds up anybody.
    let silent = TcpStream::connect(address).expect("it listens");
    let mut stalled = TcpStream::connect(address).expect("it listens");
    stalled.write_all(b"\x16\x03\x01\x02\x00\x01\x00").expect("there is room");

    let channel = channel(address, ours.client(Some(&ours))).await;
    let dockerfile = "FROM busybox\nCOPY f /f\nRUN cat /f\n";
    let open = session(channel.clone(), "far", offer(dockerfile, vec![Entry::file("f", "from far away")])).await;
    let told = solve(&channel, request("far", "far")).await.expect("it builds");
    assert!(told.iter().any(|line| line.contains("from far away")), "{told:?}");

    assert_eq!(refused(address, ours.client(None)).await, AlertDescription::CertificateRequired);
    daemon.says("a client was refused");
    assert_eq!(refused(address, ours.client(Some(&foreign))).await, AlertDescription::UnknownCA);
    daemon.says("a client was refused");
    let plain = Endpoint::from_shared(format!("http://{address}")).expect("it is one").connect().await;
    let told = match plain {
        Err(error) => error.to_string(),
        Ok(channel) => ControlClient::new(channel).info(InfoRequest {}).await.expect_err("it is no TLS").to_string(),
    };
    daemon.says("a client was refused");
    assert!(!told.is_empty());
    drop(open);
    assert_eq!(daemon.stop(), Some(0));
    drop((silent, stalled, channel));
}

#[test]
fn a_network_without_all_of_tls_is_not_served() {
    let store = Store::new();
    let ours = Authority::new(store.path("ours"));
    let flags = ours.flags();
    let serve = |flags: &[String]| {
        let words = ["serve", "--addr", "tcp://127.0.0.1:0"].into_iter().chain(flags.iter().map(String::as_str));
        Outcome::of(&mut store.command(words))
    };
    serve(&[]).fails_saying(&["cannot listen on `tcp://127.0.0.1:0` without TLS", "--tlscacert CA.pem"]);
    serve(&flags[2..]).fails_saying(&["TLS is not served without `--tlscacert`", "--tlscacert CA.pem"]);
    serve(&flags[..4]).fails_saying(&["TLS is not served without `--tlskey`"]);
    let mut wrong = flags.clone();
    wrong[5] = ours.file("client.key");
    serve(&wrong).fails_saying(&["cannot be used for TLS", "client.key"]);
}
