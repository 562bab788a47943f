//! Scopes and selectors.

use crate::errors::Reason;

const MAX_LENGTH: usize = 256;
pub(crate) const MAX_SCOPES: usize = 96;
const PREFIX: &str = "credential.lease.";

/// Checks one requested scope.
pub(crate) fn check(scope: &str, allow_providerless: bool) -> Result<(), Reason> {
    if scope.contains('*') {
        return Err(Reason::ScopeWildcard);
    }
    if scope.len() > MAX_LENGTH {
        return Err(Reason::ScopeMalformed);
    }
    let action = scope.split(':').next().unwrap_or_default();
    let known = action
        .strip_prefix(PREFIX)
        .is_some_and(|action| matches!(action, "create" | "redeem" | "revoke"));
    if action == scope {
        return Err(match (known, is_segment(scope)) {
            (true, _) => Reason::ScopeActionOnly,
            (false, true) => Reason::ScopeUnknown,
            (false, false) => Reason::ScopeMalformed,
        });
    }
    let selector = scope
        .get(action.len().saturating_add(1)..)
        .unwrap_or_default();
    let well_formed =
        is_selector(selector) || (allow_providerless && is_providerless_selector(selector));
    if !well_formed || !is_segment(action) {
        return Err(Reason::ScopeMalformed);
    }
    if known {
        Ok(())
    } else {
        Err(Reason::ScopeUnknown)
    }
}

/// `provider:<seg>:app:<seg>:account:<seg>`.
pub(crate) fn is_selector(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    matches!(
        parts.as_slice(),
        ["provider", provider, "app", app, "account", account]
            if [provider, app, account].into_iter().all(|part| is_segment(part))
    )
}

fn is_providerless_selector(text: &str) -> bool {
    is_selector(&format!("provider:none:{text}"))
}

/// `[a-z0-9][a-z0-9._-]{0,62}`.
pub(crate) fn is_segment(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= 63
        && text.bytes().next().is_some_and(plain)
        && text
            .bytes()
            .all(|byte| plain(byte) || matches!(byte, b'.' | b'_' | b'-'))
}

/// The canonical form of a selector.
pub(crate) fn selector(provider: &str, app: &str, account: &str) -> String {
    format!("provider:{provider}:app:{app}:account:{account}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_exact() {
        use Reason::{ScopeActionOnly, ScopeMalformed, ScopeUnknown, ScopeWildcard};
        let segment_63 = format!(
            "credential.lease.create:provider:gcp:app:{}:account:b",
            "a".repeat(63)
        );
        let segment_64 = format!(
            "credential.lease.create:provider:gcp:app:{}:account:b",
            "a".repeat(64)
        );
        let long = format!(
            "credential.lease.create:provider:{0}:app:{0}:account:{0}x",
            "a".repeat(70)
        );
        let rows: &[(&str, &str, Result<(), Reason>)] = &[
            (
                "create",
                "credential.lease.create:provider:gcp:app:a:account:b",
                Ok(()),
            ),
            (
                "redeem",
                "credential.lease.redeem:provider:gcp:app:a:account:b",
                Ok(()),
            ),
            (
                "revoke",
                "credential.lease.revoke:provider:gcp:app:a:account:b",
                Ok(()),
            ),
            (
                "all letters",
                "credential.lease.create:provider:0:app:a.b_c-d:account:9z",
                Ok(()),
            ),
            ("longest segment", &segment_63, Ok(())),
            (
                "action only",
                "credential.lease.create",
                Err(ScopeActionOnly),
            ),
            (
                "revoke only",
                "credential.lease.revoke",
                Err(ScopeActionOnly),
            ),
            (
                "star action",
                "credential.lease.*:provider:gcp:app:a:account:b",
                Err(ScopeWildcard),
            ),
            (
                "star account",
                "credential.lease.create:provider:gcp:app:a:account:*",
                Err(ScopeWildcard),
            ),
            (
                "star inside",
                "credential.lease.create:provider:gcp:app:a*:account:b",
                Err(ScopeWildcard),
            ),
            ("lone star", "*", Err(ScopeWildcard)),
            (
                "star before malformed",
                "credential.lease.create:*",
                Err(ScopeWildcard),
            ),
            ("star before unknown", "admin:*", Err(ScopeWildcard)),
            (
                "malformed before unknown",
                "credential.lease.mint:provider:gcp",
                Err(ScopeMalformed),
            ),
            ("empty", "", Err(ScopeMalformed)),
            (
                "empty selector",
                "credential.lease.create:",
                Err(ScopeMalformed),
            ),
            (
                "missing account",
                "credential.lease.create:provider:gcp:app:a",
                Err(ScopeMalformed),
            ),
            (
                "empty account",
                "credential.lease.create:provider:gcp:app:a:account:",
                Err(ScopeMalformed),
            ),
            (
                "no provider",
                "credential.lease.create:app:github:account:svc-github",
                Err(ScopeMalformed),
            ),
            (
                "reordered",
                "credential.lease.create:app:a:provider:gcp:account:b",
                Err(ScopeMalformed),
            ),
            (
                "extra part",
                "credential.lease.create:provider:gcp:app:a:account:b:x:y",
                Err(ScopeMalformed),
            ),
            (
                "doubled part",
                "credential.lease.create:provider:gcp:provider:gcp:app:a:account:b",
                Err(ScopeMalformed),
            ),
            (
                "trailing colon",
                "credential.lease.create:provider:gcp:app:a:account:b:",
                Err(ScopeMalformed),
            ),
            (
                "upper case",
                "credential.lease.create:provider:GCP:app:a:account:b",
                Err(ScopeMalformed),
            ),
            (
                "upper action",
                "Credential.lease.create:provider:gcp:app:a:account:b",
                Err(ScopeMalformed),
            ),
            (
                "space before",
                " credential.lease.create:provider:gcp:app:a:account:b",
                Err(ScopeMalformed),
            ),
            (
                "space after",
                "credential.lease.create:provider:gcp:app:a:account:b ",
                Err(ScopeMalformed),
            ),
            (
                "two in one",
                "credential.lease.create:provider:gcp:app:a:account:b credential.lease.create",
                Err(ScopeMalformed),
            ),
            (
                "percent",
                "credential.lease.create:provider:gcp:app:%61:account:b",
                Err(ScopeMalformed),
            ),
            (
                "question mark",
                "credential.lease.create:provider:gcp:app:?:account:b",
                Err(ScopeMalformed),
            ),
            (
                "slash",
                "credential.lease.create:provider:gcp:app:a/b:account:b",
                Err(ScopeMalformed),
            ),
            (
                "leading dash",
                "credential.lease.create:provider:gcp:app:-a:account:b",
                Err(ScopeMalformed),
            ),
            (
                "leading dot",
                "credential.lease.create:provider:gcp:app:..:account:b",
                Err(ScopeMalformed),
            ),
            (
                "other script",
                "credential.lease.create:provider:gcp:app:аpp:account:b",
                Err(ScopeMalformed),
            ),
            (
                "control",
                "credential.lease.create:provider:gcp:app:a\n:account:b",
                Err(ScopeMalformed),
            ),
            ("segment of 64", &segment_64, Err(ScopeMalformed)),
            ("too long", &long, Err(ScopeMalformed)),
            (
                "unknown action",
                "credential.lease.list:provider:gcp:app:a:account:b",
                Err(ScopeUnknown),
            ),
            (
                "unknown prefix",
                "secrets.read:provider:gcp:app:a:account:b",
                Err(ScopeUnknown),
            ),
            ("unknown word", "openid", Err(ScopeUnknown)),
            ("not offered yet", "spiffe.bootstrap", Err(ScopeUnknown)),
        ];
        for (name, scope, expected) in rows {
            assert_eq!(check(scope, false), *expected, "{name}");
        }
    }

    #[test]
    fn providerless_scopes_must_be_asked_for() {
        let scope = "credential.lease.create:app:github:account:svc-github";
        assert_eq!(check(scope, true), Ok(()));
        assert_eq!(
            check("credential.lease.create:app:github", true),
            Err(Reason::ScopeMalformed)
        );
    }
}
