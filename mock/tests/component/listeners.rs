//! Who may speak to which surface: `Host` and `Origin`, for all that listens. IN-2.

use aegis_mock::Mock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::control;

/// One thing that can be asked of a port.
struct Surface {
    name: &'static str,
    port: u16,
    line: &'static str,
    more: String,
    /// The port of the API, or that of control.
    origins: Origins,
}

/// Which `Origin` a surface wants.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origins {
    /// Its own or none.
    Own,
    /// Its own, said: a form.
    OwnSaid,
    /// None: no browser at all.
    None,
}

fn surfaces(mock: &Mock) -> Vec<Surface> {
    let api = mock.api().port().unwrap();
    let surface = |name, line, more: &str, origins| Surface {
        name,
        port: api,
        line,
        more: more.to_owned(),
        origins,
    };
    let rpc = "Content-Type: application/json\r\nConnect-Protocol-Version: 1\r\n";
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let mut surfaces = vec![
        surface(
            "rpc",
            "POST /aegis.v1.IdentityGatewayService/BeginMcpOauthDeviceAuthorization",
            rpc,
            Origins::Own,
        ),
        surface("health", "GET /healthz", "", Origins::Own),
        surface("keys", "GET /.well-known/jwks.json", "", Origins::Own),
        surface("bundle", "GET /.well-known/spiffe-bundle", "", Origins::Own),
        surface("whoami", "GET /fake/gcp/whoami", "", Origins::Own),
        surface("identity keys", "GET /idp/jwks", "", Origins::Own),
        surface(
            "identity metadata",
            "GET /idp/.well-known/openid-configuration",
            "",
            Origins::Own,
        ),
        surface("authorize", "GET /idp/authorize", "", Origins::Own),
        surface("identity form", "POST /idp/sign-in", form, Origins::OwnSaid),
        surface("identity token", "POST /idp/token", form, Origins::Own),
        surface("actions", "GET /idp/actions/token", "", Origins::Own),
        surface("nothing", "GET /nothing", "", Origins::Own),
        surface("page", "GET /device", "", Origins::Own),
        surface("style", "GET /device/style.css", "", Origins::Own),
        surface("form", "POST /device/sign-in", form, Origins::OwnSaid),
    ];
    surfaces.push(Surface {
        name: "control",
        port: mock.control().unwrap().port().unwrap(),
        line: "GET /_ctl/leases",
        more: format!("Authorization: Bearer {}\r\n", mock.control_token()),
        origins: Origins::None,
    });
    surfaces
}

/// Sends these headers along; whether they were taken for foreign.
async fn is_refused(surface: &Surface, headers: &str) -> bool {
    let mut stream = TcpStream::connect(("127.0.0.1", surface.port))
        .await
        .unwrap();
    let request = format!(
        "{} HTTP/1.1\r\n{headers}{}Content-Length: 2\r\nConnection: close\r\n\r\n{{}}",
        surface.line, surface.more
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    let refused = answer.starts_with("HTTP/1.1 403 ");
    if refused && surface.name == "rpc" {
        assert!(answer.contains("host_refused") || answer.contains("origin_refused"));
    }
    // Nothing that a stranger gets may be kept.
    assert!(answer.contains("cache-control: no-store"), "{answer}");
    // A form that is merely empty is another matter.
    refused && !answer.contains("out of date")
}

#[tokio::test]
async fn only_this_machine_by_its_own_names_is_heard_anywhere() {
    let mock = control::spawn().await;
    for surface in surfaces(&mock) {
        let port = surface.port;
        let other = port.wrapping_add(1);
        let own = format!("http://127.0.0.1:{port}");
        let good_origin = if surface.origins == Origins::OwnSaid {
            format!("Origin: {own}\r\n")
        } else {
            String::new()
        };
        let hosts = [
            ("own", format!("Host: 127.0.0.1:{port}\r\n"), true),
            ("none", String::new(), false),
            ("empty", "Host: \r\n".to_owned(), false),
            (
                "two",
                format!("Host: 127.0.0.1:{port}\r\nHost: evil.example\r\n"),
                false,
            ),
            (
                "the same twice",
                format!("Host: 127.0.0.1:{port}\r\n").repeat(2),
                false,
            ),
            ("foreign", format!("Host: evil.example:{port}\r\n"), false),
            (
                "foreign, no port",
                "Host: evil.example\r\n".to_owned(),
                false,
            ),
            (
                "another port",
                format!("Host: 127.0.0.1:{other}\r\n"),
                false,
            ),
            ("no port", "Host: 127.0.0.1\r\n".to_owned(), false),
            (
                "name that resolves here",
                format!("Host: rebind.evil.example:{port}\r\n"),
                false,
            ),
            (
                "our address in a name",
                format!("Host: 127.0.0.1.evil.example:{port}\r\n"),
                false,
            ),
            (
                "our name in a name",
                format!("Host: localhost.evil.example:{port}\r\n"),
                false,
            ),
            (
                "another of our addresses",
                format!("Host: 127.0.0.2:{port}\r\n"),
                false,
            ),
            ("any address", format!("Host: 0.0.0.0:{port}\r\n"), false),
            (
                "with a user",
                format!("Host: evil@127.0.0.1:{port}\r\n"),
                false,
            ),
        ];
        for (name, host, heard) in hosts {
            let refused = is_refused(&surface, &format!("{host}{good_origin}")).await;
            assert_eq!(refused, !heard, "{}: host {name}", surface.name);
        }
        // By another of its names, a form comes from a page of that name.
        for name in ["localhost", "LOCALHOST", "[::1]"] {
            let host = format!("Host: {name}:{port}\r\n");
            let headers = if surface.origins == Origins::OwnSaid {
                format!("{host}Origin: http://{}:{port}\r\n", name.to_lowercase())
            } else {
                host
            };
            assert!(
                !is_refused(&surface, &headers).await,
                "{}: {name}",
                surface.name
            );
        }

        let host = format!("Host: 127.0.0.1:{port}\r\n");
        let origins = [
            (
                "own",
                format!("Origin: {own}\r\n"),
                surface.origins != Origins::None,
            ),
            ("none", String::new(), surface.origins != Origins::OwnSaid),
            ("null", "Origin: null\r\n".to_owned(), false),
            ("empty", "Origin: \r\n".to_owned(), false),
            (
                "foreign",
                "Origin: https://evil.example\r\n".to_owned(),
                false,
            ),
            (
                "another scheme",
                format!("Origin: https://127.0.0.1:{port}\r\n"),
                false,
            ),
            (
                "another port",
                format!("Origin: http://127.0.0.1:{other}\r\n"),
                false,
            ),
            ("no port", "Origin: http://127.0.0.1\r\n".to_owned(), false),
            (
                "own and foreign",
                format!("Origin: {own}\r\nOrigin: https://evil.example\r\n"),
                false,
            ),
            (
                "more than own",
                format!("Origin: {own}.evil.example\r\n"),
                false,
            ),
        ];
        for (name, origin, heard) in origins {
            let refused = is_refused(&surface, &format!("{host}{origin}")).await;
            assert_eq!(refused, !heard, "{}: origin {name}", surface.name);
        }
    }
}

/// In the longer form of a request's first line the address stands twice.
#[tokio::test]
async fn a_request_that_names_two_hosts_is_refused() {
    let mock = control::spawn().await;
    let port = mock.api().port().unwrap();
    let at = |line| Surface {
        name: "absolute",
        port,
        line,
        more: String::new(),
        origins: Origins::Own,
    };
    let host = format!("Host: 127.0.0.1:{port}\r\n");
    assert!(is_refused(&at("GET http://evil.example/healthz"), &host).await);
}
