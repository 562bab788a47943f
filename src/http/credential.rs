//! The one place where a credential is put into a request.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4::SigningParams;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use crate::broker::ports::{HttpFailure, HttpJob};
use crate::model::{FieldValue, InjectionScheme, Material, Outgoing};
use crate::time::UnixTime;

/// Takes the path as it is when it is signed, once encoded.
const SIGNS_PATH_AS_IS: &str = "s3";

/// The headers of a request: the caller's, and the credential by its scheme. Those that hold it
/// are marked as sensitive (HY-8).
pub(super) fn headers(job: &HttpJob) -> Result<HeaderMap, HttpFailure> {
    let mut headers = HeaderMap::new();
    for (name, value) in job.outgoing.headers() {
        let name = HeaderName::from_bytes(name.as_bytes());
        let value = HeaderValue::from_str(value);
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.insert(name, value);
        }
    }
    let material = &job.material;
    match &job.injection.scheme {
        InjectionScheme::Bearer { field } => {
            let token = field_of(material, field.as_deref())?;
            let value = Zeroizing::new(format!("Bearer {token}"));
            headers.insert(AUTHORIZATION, sensitive(&value)?);
        }
        InjectionScheme::Basic { user, field } => {
            let user = match user {
                Some(user) => user,
                None => field_of(material, Some("username"))?,
            };
            let pair = Zeroizing::new(format!("{user}:{}", field_of(material, field.as_deref())?));
            let pair = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
            let value = Zeroizing::new(format!("Basic {}", *pair));
            headers.insert(AUTHORIZATION, sensitive(&value)?);
        }
        InjectionScheme::Header { name, field } => {
            let name = HeaderName::from_bytes(name.as_bytes());
            let name = name.map_err(|_error| HttpFailure::Material)?;
            let value = field_of(material, field.as_deref())?;
            headers.insert(name, sensitive(value)?);
        }
        InjectionScheme::AwsSigV4 { region, service } => {
            let signed = signature(&job.outgoing, material, region, service, job.at)?;
            headers.extend(signed);
        }
    }
    Ok(headers)
}

/// The field of that name, or the main one.
fn field_of<'m>(material: &'m Material, name: Option<&str>) -> Result<&'m str, HttpFailure> {
    let name = name.or(material.kind.main_field());
    let field = name.and_then(|name| material.field(name));
    match field.map(|field| &field.value) {
        Some(FieldValue::Secret(secret)) => Ok(secret.expose()),
        Some(FieldValue::Public(text)) => Ok(text),
        None => Err(HttpFailure::Material),
    }
}

/// A value with a line's end in it, or anything else that no header holds, is not sent.
fn sensitive(value: &str) -> Result<HeaderValue, HttpFailure> {
    let mut value = HeaderValue::from_str(value).map_err(|_error| HttpFailure::Material)?;
    value.set_sensitive(true);
    Ok(value)
}

/// AWS Signature Version 4 over method, address, body and the caller's headers.
fn signature(
    outgoing: &Outgoing,
    material: &Material,
    region: &str,
    service: &str,
    at: UnixTime,
) -> Result<HeaderMap, HttpFailure> {
    let field = |name| field_of(material, Some(name)).map(str::to_owned);
    let identity = Credentials::new(
        field("access_key_id")?,
        field("secret_access_key")?,
        Some(field("session_token")?),
        None,
        "aegis-broker",
    )
    .into();
    let mut settings = SigningSettings::default();
    // The path has its one form already.
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    if service == SIGNS_PATH_AS_IS {
        settings.percent_encoding_mode = PercentEncodingMode::Single;
    }
    let params = SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(service)
        .time(SystemTime::UNIX_EPOCH + Duration::from_millis(at.as_millis()))
        .settings(settings)
        .build()
        .map_err(|_error| HttpFailure::Internal)?;
    let request = SignableRequest::new(
        outgoing.method().as_str(),
        outgoing.url().as_str(),
        outgoing.headers(),
        SignableBody::Bytes(outgoing.body().as_bytes()),
    )
    .map_err(|_error| HttpFailure::Internal)?;
    let signed = sign(request, &params.into()).map_err(|_error| HttpFailure::Internal)?;
    let (instructions, _signature) = signed.into_parts();
    let mut headers = HeaderMap::new();
    for (name, value) in instructions.headers() {
        let name = HeaderName::from_bytes(name.as_bytes());
        let name = name.map_err(|_error| HttpFailure::Internal)?;
        headers.insert(name, sensitive(value)?);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aws_lc_rs::{digest, hmac};

    use super::*;
    use crate::model::{BoundHost, Field, HttpMethod, Injection, MaterialKind, PathPrefix};
    use crate::secret::SecretString;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    fn job(
        scheme: InjectionScheme,
        kind: MaterialKind,
        fields: &[(&str, &str)],
        url: &str,
    ) -> HttpJob {
        let fields = fields.iter().map(|(name, value)| Field {
            name: Box::from(*name),
            value: FieldValue::Secret(SecretString::copy_from(value)),
        });
        let headers = [
            ("content-type", "application/json"),
            ("x-amz-target", "A.B"),
        ];
        HttpJob {
            injection: Arc::new(Injection {
                hosts: vec![BoundHost::parse("a.example", false).unwrap()],
                scheme,
                methods: vec![HttpMethod::Post],
                paths: vec![PathPrefix::parse("/").unwrap()],
                max_request: 64,
                max_response: 64,
            }),
            outgoing: Arc::new(Outgoing::parse("POST", url, headers, Some("{}")).unwrap()),
            material: Arc::new(Material {
                kind,
                fields: fields.collect(),
                expires_at: UnixTime::from_millis(0),
            }),
            known: Vec::new(),
            // 2015-08-30T12:36:00Z
            at: UnixTime::from_millis(1_440_938_160_000),
        }
    }

    fn hex(bytes: &[u8]) -> String {
        use std::fmt::Write as _;
        bytes.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
    }

    fn sha256(text: &str) -> String {
        hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
    }

    fn mac(key: &[u8], text: &str) -> Vec<u8> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
    }

    /// Signature Version 4 as its documentation computes it, step by step, apart from the library.
    #[test]
    fn a_signature_is_what_the_documentation_computes() {
        let rows = [
            (
                "https://a.example/b/c%20d?z=1&a=%2F&a=",
                "service",
                "/b/c%2520d",
            ),
            ("https://a.example/b/c%20d?z=1&a=%2F&a=", "s3", "/b/c%20d"),
            ("https://a.example:8443/", "service", "/"),
        ];
        for (url, service, path) in rows {
            let scheme = InjectionScheme::AwsSigV4 {
                region: Box::from("us-east-1"),
                service: Box::from(service),
            };
            let fields = [
                ("access_key_id", "AKIDEXAMPLE"),
                ("secret_access_key", SECRET),
                ("session_token", "session"),
            ];
            let job = job(scheme, MaterialKind::AwsSessionCredentials, &fields, url);
            let headers = headers(&job).unwrap();
            let host = url.split('/').nth(2).unwrap();
            let query = if url.contains('?') {
                "a=&a=%2F&z=1"
            } else {
                ""
            };
            let body = sha256("{}");
            let signed = "content-type;host;x-amz-content-sha256;x-amz-date;x-amz-security-token;x-amz-target";
            let canonical = format!(
                "POST\n{path}\n{query}\ncontent-type:application/json\nhost:{host}\nx-amz-content-sha256:{body}\nx-amz-date:20150830T123600Z\nx-amz-security-token:session\nx-amz-target:A.B\n\n{signed}\n{body}"
            );
            let scope = format!("20150830/us-east-1/{service}/aws4_request");
            let text = format!(
                "AWS4-HMAC-SHA256\n20150830T123600Z\n{scope}\n{}",
                sha256(&canonical)
            );
            let key = ["20150830", "us-east-1", service, "aws4_request"]
                .iter()
                .fold(format!("AWS4{SECRET}").into_bytes(), |key, part| {
                    mac(&key, part)
                });
            let signature = hex(&mac(&key, &text));
            let expected = format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/{scope}, SignedHeaders={signed}, Signature={signature}"
            );
            let authorization = headers.get(AUTHORIZATION).unwrap();
            assert_eq!(authorization.to_str().unwrap(), expected, "{url} {service}");
            assert!(authorization.is_sensitive());
            assert!(headers.get("x-amz-security-token").unwrap().is_sensitive());
            let sent = format!("{headers:?}");
            assert!(
                !sent.contains(SECRET) && !sent.contains("session"),
                "{sent}"
            );
        }
    }

    /// HY-13: a value that would end its line is not sent, nor is one that is not there.
    #[test]
    fn what_fits_into_no_header_is_not_sent() {
        let bearer = || InjectionScheme::Bearer { field: None };
        let kind = MaterialKind::GithubToken;
        for value in ["a\r\nHost: b", "a\nb", "a\0"] {
            let job = job(bearer(), kind, &[("token", value)], "https://a.example/");
            assert_eq!(
                headers(&job).err(),
                Some(HttpFailure::Material),
                "{value:?}"
            );
        }
        let job = job(bearer(), kind, &[("other", "a")], "https://a.example/");
        assert_eq!(headers(&job).err(), Some(HttpFailure::Material));
    }

    /// RFC 7617 §2: the material's own user name, where the table has none.
    #[test]
    fn basic_takes_the_name_of_the_material() {
        let scheme = InjectionScheme::Basic {
            user: None,
            field: None,
        };
        let fields = [("username", "Aladdin"), ("password", "open sesame")];
        let job = job(
            scheme,
            MaterialKind::DatabaseLogin,
            &fields,
            "https://a.example/",
        );
        let headers = headers(&job).unwrap();
        let value = headers.get(AUTHORIZATION).unwrap();
        assert_eq!(
            value.to_str().unwrap(),
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
        );
        assert!(value.is_sensitive());
    }
}
