//! Scopes and selectors.

use crate::check::{Check, Checks};
use crate::errors::Reason;

const MAX_LENGTH: usize = 256;
pub(crate) const MAX_SCOPES: usize = 96;
const PREFIX: &str = "credential.lease.";
/// The scope of a token that bootstraps an SVID, and does nothing else.
pub(crate) const BOOTSTRAP: &str = "spiffe.bootstrap";

/// Checks one scope.
pub(crate) fn check(scope: &str, allow_providerless: bool) -> Result<(), Reason> {
    judge(scope, allow_providerless, Checks::default()).map_err(Check::reason)
}

/// The first check that one scope fails, of those that are made.
pub(crate) fn judge(scope: &str, allow_providerless: bool, checks: Checks) -> Result<(), Check> {
    if scope == BOOTSTRAP {
        return Ok(());
    }
    checks.require(Check::ScopeWildcard, !scope.contains('*'))?;
    // Longer than any with three segments; not worth a look.
    checks.require(Check::ScopeShape, scope.len() <= MAX_LENGTH)?;
    let (action, selector) = match scope.split_once(':') {
        Some((action, selector)) => (action, Some(selector)),
        None => (scope, None),
    };
    let known = action
        .strip_prefix(PREFIX)
        .is_some_and(|action| matches!(action, "create" | "redeem" | "revoke"));
    let Some(selector) = selector else {
        checks.require(Check::ScopeActionOnly, !known)?;
        let word = is_segment(action);
        return Err(if word {
            Check::ScopeAction
        } else {
            Check::ScopeShape
        });
    };
    let shaped = has_shape(selector) || (allow_providerless && has_shape_but_provider(selector));
    checks.require(Check::ScopeShape, shaped)?;
    let specific = is_segment(action) && segments(selector).all(is_segment);
    checks.require(Check::ScopeSegment, specific)?;
    checks.require(Check::ScopeAction, known)
}

/// `provider:<seg>:app:<seg>:account:<seg>`.
pub(crate) fn is_selector(text: &str) -> bool {
    has_shape(text) && segments(text).all(is_segment)
}

fn has_shape(selector: &str) -> bool {
    let parts: Vec<&str> = selector.split(':').collect();
    matches!(parts.as_slice(), ["provider", _, "app", _, "account", _])
}

fn has_shape_but_provider(selector: &str) -> bool {
    has_shape(&format!("provider:none:{selector}"))
}

/// What stands behind the labels.
fn segments(selector: &str) -> impl Iterator<Item = &str> {
    selector.split(':').skip(1).step_by(2)
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
            ("bootstrap", "spiffe.bootstrap", Ok(())),
            (
                "bootstrap of something",
                "spiffe.bootstrap:provider:gcp:app:a:account:b",
                Err(ScopeUnknown),
            ),
            ("another bootstrap", "spiffe.bootstrap.x", Err(ScopeUnknown)),
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
