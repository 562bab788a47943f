//! Reads what a profile's network settings name: authorities and a proxy's credentials.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use crate::aegis::{Network, Renewing, SettingsError};
use crate::config;
use crate::model::{ErrorCode, Refusal};
use crate::secret::{SecretBuffer, SecretString};
use crate::svid::Bundle;

/// Of a file of authorities: some hundreds.
const MAX_AUTHORITIES: usize = 1024 * 1024;

/// Of a proxy's credentials.
const MAX_AUTH: usize = 4 * 1024;

/// Who else may do what with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Others {
    /// They may read it.
    Read,
    /// They may do nothing: a secret.
    Nothing,
}

/// Reads the files that are named, once, at the start.
///
/// # Errors
/// `config_invalid` where one is not there, too long, open to others, or not what it should be.
pub(super) fn read(settings: &config::Network) -> Result<Network, Refusal> {
    let mut network = Network::default();
    if let Some(file) = &settings.ca_file {
        let pem = read_file(file, MAX_AUTHORITIES, Others::Read)?;
        network = network
            .trusting(pem.expose())
            .map_err(|error| wrong(file, error))?;
    }
    if let Some(origin) = &settings.login_origin {
        network = network.with_login_at(origin);
    }
    if let Some(proxy) = &settings.proxy {
        let auth = proxy.auth_file.as_deref().map(credentials).transpose()?;
        network = network
            .through(&proxy.url, auth.as_ref())
            .map_err(|error| {
                let refusal = Refusal::new(ErrorCode::ConfigInvalid);
                refusal.with_message(&error.to_string())
            })?;
    }
    Ok(network)
}

/// What it takes to keep a login alive without the person, where that is wanted and can be had.
///
/// # Errors
/// `config_invalid` as above, and where the server would have to be shown a certificate without TLS.
pub(super) fn renewing(profile: &config::Profile) -> Result<Option<Renewing>, Refusal> {
    let config::SvidSettings {
        bundle_file,
        mtls_url,
        workload_name,
    } = &profile.svid;
    let Some(file) = bundle_file else {
        return Ok(None);
    };
    if profile.renew == config::Renew::Login {
        return Ok(None);
    }
    let pem = read_file(file, MAX_AUTHORITIES, Others::Read)?;
    let bundle =
        Bundle::from_pem(pem.expose()).map_err(|error| unusable(file, &error.to_string()))?;
    Ok(Some(Renewing {
        bundle,
        mtls_url: mtls_url.clone(),
        workload_name: workload_name.clone(),
        token_ttl: profile.token_ttl,
    }))
}

/// One line, without its end.
fn credentials(file: &Path) -> Result<Arc<SecretString>, Refusal> {
    let bytes = read_file(file, MAX_AUTH, Others::Nothing)?;
    let text = std::str::from_utf8(bytes.expose())
        .ok()
        .ok_or_else(|| wrong(file, SettingsError::Proxy))?;
    let line = text.strip_suffix('\n').unwrap_or(text);
    Ok(Arc::new(SecretString::copy_from(line)))
}

/// A regular file of ours or root's that nobody else can write.
fn read_file(file: &Path, max: usize, others: Others) -> Result<SecretBuffer, Refusal> {
    let refused = |what: &str| unusable(file, what);
    let kind = std::fs::metadata(file).map_err(|error| refused(&error.to_string()))?;
    // Opening a FIFO would wait.
    if !kind.is_file() {
        return Err(refused("it is not a regular file"));
    }
    let opened = File::open(file).map_err(|error| refused(&error.to_string()))?;
    let found = opened
        .metadata()
        .map_err(|error| refused(&error.to_string()))?;
    if found.uid() != rustix::process::geteuid().as_raw() && found.uid() != 0 {
        return Err(refused("it belongs to another user"));
    }
    let forbidden = match others {
        Others::Read => 0o022,
        Others::Nothing => 0o077,
    };
    if found.mode() & forbidden != 0 {
        return Err(refused(match others {
            Others::Read => "it may be written by others",
            Others::Nothing => "it may be read by others: chmod 600",
        }));
    }
    // One byte more than may be there shows that there is more.
    let mut bytes = SecretBuffer::with_capacity(max.saturating_add(1));
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    let mut chunk = zeroize::Zeroizing::new([0; 4096]);
    let mut reader = opened.take(limit);
    loop {
        let count = reader
            .read(chunk.as_mut_slice())
            .map_err(|error| refused(&error.to_string()))?;
        let Some(read) = chunk.get(..count).filter(|read| !read.is_empty()) else {
            break;
        };
        bytes
            .extend(read)
            .ok()
            .ok_or_else(|| refused("it is too long"))?;
    }
    if bytes.len() > max {
        return Err(refused("it is too long"));
    }
    Ok(bytes)
}

fn wrong(file: &Path, error: SettingsError) -> Refusal {
    unusable(file, &error.to_string())
}

fn unusable(file: &Path, what: &str) -> Refusal {
    let message = format!("{} cannot be used: {what}", file.display());
    Refusal::new(ErrorCode::ConfigInvalid).with_message(&message)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use url::Url;

    use super::*;

    fn proxy(auth_file: &Path) -> config::Network {
        config::Network {
            proxy: Some(config::Proxy {
                url: Url::parse("http://proxy.example:3128").unwrap(),
                auth_file: Some(auth_file.to_owned()),
            }),
            ..config::Network::default()
        }
    }

    /// HY-4, HY-17: a password that others could read, or that is none, stops the start, and is
    /// not quoted.
    #[test]
    fn credentials_that_others_can_read_are_refused() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("auth");
        let long = format!("user:{}", "hunter2".repeat(1000));
        let rows = [
            ("good", "user:hunter2\n", 0o600, None),
            (
                "read by others",
                "user:hunter2",
                0o640,
                Some("read by others"),
            ),
            ("no colon", "hunter2", 0o600, Some("user:password")),
            (
                "two lines",
                "user:hunter2\nx\n",
                0o600,
                Some("user:password"),
            ),
            ("too long", long.as_str(), 0o600, Some("too long")),
        ];
        for (name, text, mode, expected) in rows {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            let found = read(&proxy(&file)).map_err(|refusal| refusal.message().to_owned());
            match expected {
                None => assert!(found.is_ok(), "{name}: {found:?}"),
                Some(what) => {
                    let message = found.unwrap_err();
                    assert!(message.contains(what), "{name}: {message}");
                    assert!(!message.contains("hunter2"), "{name}: {message}");
                }
            }
        }
        let missing = folder.path().join("none");
        assert!(read(&proxy(&missing)).is_err());
        assert!(read(&proxy(folder.path())).is_err(), "a folder");
    }
}
