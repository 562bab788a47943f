use crate::secret::SecretString;
use crate::time::UnixTime;

/// Which shape credential material has (`aegis.md` 10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MaterialKind {
    /// An OAuth access token for Google Cloud.
    GcpAccessToken,
    /// Session credentials for AWS.
    AwsSessionCredentials,
    /// A token for GitHub.
    GithubToken,
    /// A service account's token for a Kubernetes API server.
    KubernetesToken,
    /// Name and password for a database.
    DatabaseLogin,
    /// Named secret fields without further meaning.
    GenericSecret,
    /// A token that Google's security token service exchanges for an access token.
    GcpSubjectToken,
}

impl MaterialKind {
    /// All of them, in the contract's order.
    pub const ALL: [Self; 7] = [
        Self::GcpAccessToken,
        Self::AwsSessionCredentials,
        Self::GithubToken,
        Self::KubernetesToken,
        Self::DatabaseLogin,
        Self::GenericSecret,
        Self::GcpSubjectToken,
    ];

    /// The word on the wire, on both sides.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GcpAccessToken => "gcp_access_token",
            Self::AwsSessionCredentials => "aws_session_credentials",
            Self::GithubToken => "github_token",
            Self::KubernetesToken => "kubernetes_token",
            Self::DatabaseLogin => "database_login",
            Self::GenericSecret => "generic_secret",
            Self::GcpSubjectToken => "gcp_subject_token",
        }
    }

    /// The kind of that word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// The field that a caller who wants a single value means, where there is one.
    pub const fn main_field(self) -> Option<&'static str> {
        match self {
            Self::GcpAccessToken => Some("access_token"),
            Self::GithubToken | Self::KubernetesToken => Some("token"),
            Self::DatabaseLogin => Some("password"),
            Self::GcpSubjectToken => Some("subject_token"),
            Self::AwsSessionCredentials | Self::GenericSecret => None,
        }
    }
}

/// One named part of credential material.
#[derive(Debug)]
pub struct Field {
    /// Its name in `snake_case`, as the contract has it (for `generic_secret` as the issuer
    /// chose it: at most 64 of `[A-Za-z0-9._-]`).
    pub name: Box<str>,
    /// Its value.
    pub value: FieldValue,
}

/// A field's value, by whether it must be kept from eyes.
#[derive(Debug)]
pub enum FieldValue {
    /// May be shown: an account name, a project.
    Public(Box<str>),
    /// A secret of at most 64 KiB.
    Secret(SecretString),
}

/// What redeeming a lease yields. Wiped when the last holder of it drops it.
#[derive(Debug)]
pub struct Material {
    /// Its shape.
    pub kind: MaterialKind,
    /// Its parts, at most 64, no name twice.
    pub fields: Vec<Field>,
    /// When the provider ends it, never later than the lease.
    pub expires_at: UnixTime,
}

impl Material {
    /// The field of that name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| &*field.name == name)
    }
}
