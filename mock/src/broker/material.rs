//! Credential material, made from the policy's templates.

use std::collections::BTreeMap;

use crate::clock::Moment;
use crate::encoding::random_secret;
use crate::policy::{self, Credential, CredentialKind};
use crate::proto::credential_material::Material;
use crate::proto::{
    AwsSessionCredentials, CredentialMaterial, DatabaseLogin, GcpAccessToken, GcpSubjectToken,
    GenericSecret, GithubToken, KubernetesToken,
};
use crate::wire;

/// Material and, by the name of its field, every secret in it.
pub(crate) struct Made {
    pub(crate) material: CredentialMaterial,
    pub(crate) secrets: Vec<(String, String)>,
}

pub(crate) fn make(credential: &Credential, expires_at: Moment) -> Made {
    let fields: BTreeMap<String, String> = credential
        .fields
        .iter()
        .map(|(name, value)| {
            let value = if value.contains("{random}") {
                value.replace("{random}", &random_secret(""))
            } else {
                value.clone()
            };
            (name.clone(), value)
        })
        .collect();
    let secrets = match secrets_of(credential.kind) {
        Some(names) => {
            let secret = |name: &&str| Some(((*name).to_owned(), fields.get(*name)?.clone()));
            names.iter().filter_map(secret).collect()
        }
        None => fields.clone().into_iter().collect(),
    };
    let (kind, material) = fill(credential.kind, fields);
    Made {
        material: CredentialMaterial {
            kind: kind.to_owned(),
            expires_at: wire::timestamp(expires_at).into(),
            material,
            ..CredentialMaterial::default()
        },
        secrets,
    }
}

/// The secret fields of a kind; `None` where all are.
fn secrets_of(kind: CredentialKind) -> Option<&'static [&'static str]> {
    Some(match kind {
        CredentialKind::GcpAccessToken => &["access_token"],
        CredentialKind::AwsSessionCredentials => &["secret_access_key", "session_token"],
        CredentialKind::GithubToken | CredentialKind::KubernetesToken => &["token"],
        CredentialKind::DatabaseLogin => &["password"],
        CredentialKind::GcpSubjectToken => &["subject_token"],
        CredentialKind::GenericSecret => return None,
    })
}

/// The message of that kind, and its name in the `oneof`. The policy has checked the fields.
fn fill(
    kind: CredentialKind,
    mut fields: BTreeMap<String, String>,
) -> (&'static str, Option<Material>) {
    let mut take = |name: &str| fields.remove(name).unwrap_or_default();
    match kind {
        CredentialKind::GcpAccessToken => {
            let token = GcpAccessToken {
                access_token: take("access_token"),
                token_type: "Bearer".to_owned(),
                service_account_email: take("service_account_email"),
                project_id: take("project_id"),
                ..GcpAccessToken::default()
            };
            ("gcp_access_token", token.into())
        }
        CredentialKind::AwsSessionCredentials => {
            let credentials = AwsSessionCredentials {
                access_key_id: take("access_key_id"),
                secret_access_key: take("secret_access_key"),
                session_token: take("session_token"),
                region: take("region"),
                role_arn: take("role_arn"),
                ..AwsSessionCredentials::default()
            };
            ("aws_session_credentials", credentials.into())
        }
        CredentialKind::GithubToken => {
            let repositories = take("repositories");
            let permissions = take("permissions");
            let permissions = policy::list(&permissions).filter_map(|item| item.split_once('='));
            let token = GithubToken {
                token: take("token"),
                host: take("host"),
                login: take("login"),
                repositories: policy::list(&repositories).map(str::to_owned).collect(),
                permissions: permissions
                    .map(|(what, how)| (what.to_owned(), how.to_owned()))
                    .collect(),
                ..GithubToken::default()
            };
            ("github_token", token.into())
        }
        CredentialKind::KubernetesToken => {
            let token = KubernetesToken {
                token: take("token"),
                api_server: take("api_server"),
                ca_certificate_pem: take("ca_certificate_pem"),
                namespace: take("namespace"),
                service_account: take("service_account"),
                ..KubernetesToken::default()
            };
            ("kubernetes_token", token.into())
        }
        CredentialKind::DatabaseLogin => {
            let login = DatabaseLogin {
                engine: take("engine"),
                host: take("host"),
                port: take("port").parse().unwrap_or_default(),
                database: take("database"),
                username: take("username"),
                password: take("password"),
                sslmode: take("sslmode"),
                ..DatabaseLogin::default()
            };
            ("database_login", login.into())
        }
        CredentialKind::GcpSubjectToken => {
            let token = GcpSubjectToken {
                subject_token: take("subject_token"),
                token_type: take("token_type"),
                audience: take("audience"),
                ..GcpSubjectToken::default()
            };
            ("gcp_subject_token", token.into())
        }
        CredentialKind::GenericSecret => {
            let secret = GenericSecret {
                fields: fields.into_iter().collect(),
                ..GenericSecret::default()
            };
            ("generic_secret", secret.into())
        }
    }
}
