//! Credential material, made from the policy's templates.

use std::collections::BTreeMap;

use crate::clock::Moment;
use crate::encoding::random_secret;
use crate::policy::{Credential, CredentialKind};
use crate::proto::{CredentialMaterial, GcpAccessToken, GenericSecret};
use crate::wire;

/// Material and, by the name of its field, every secret in it.
pub(crate) struct Made {
    pub(crate) material: CredentialMaterial,
    pub(crate) secrets: Vec<(String, String)>,
}

pub(crate) fn make(credential: &Credential, expires_at: Moment) -> Made {
    let mut fields: BTreeMap<String, String> = credential
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
    let (kind, secrets, material) = match credential.kind {
        CredentialKind::GcpAccessToken => {
            let mut take = |name| fields.remove(name).unwrap_or_default();
            let token = GcpAccessToken {
                access_token: take("access_token"),
                token_type: "Bearer".to_owned(),
                service_account_email: take("service_account_email"),
                project_id: take("project_id"),
                ..GcpAccessToken::default()
            };
            let secret = ("access_token".to_owned(), token.access_token.clone());
            ("gcp_access_token", vec![secret], token.into())
        }
        CredentialKind::GenericSecret => {
            let secrets = fields.clone().into_iter().collect();
            let secret = GenericSecret {
                fields: fields.into_iter().collect(),
                ..GenericSecret::default()
            };
            ("generic_secret", secrets, secret.into())
        }
    };
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
