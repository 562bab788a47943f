use std::fmt;
use std::sync::Arc;

/// The longest short form: three segments of 63 bytes and two slashes.
const MAX_SHORT: usize = 3 * 63 + 2;

/// What a credential is for: one account of one app at one provider, always specific.
///
/// Written canonically `provider:gcp:app:billing-prod:account:deploy-bot`, or short
/// `gcp/billing-prod/deploy-bot`; both parse to the same value. Segments are
/// `[a-z0-9][a-z0-9._-]{0,62}`, compared byte for byte: nothing is folded, trimmed or decoded.
/// Cloning is cheap. Source: `aegis.md` 7.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector {
    short: Arc<str>,
}

/// Why a text is not a selector. Never quotes the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// A `*`: requests name exactly one account.
    #[error("a selector names exactly one account, wildcards are not allowed")]
    Wildcard,
    /// Neither of the two forms, or parts missing, extra or out of order.
    #[error("a selector is provider/app/account or provider:…:app:…:account:…")]
    Shape,
    /// A part with a character outside the alphabet, empty, or too long.
    #[error("a selector's parts are a-z, 0-9, dot, underscore and dash, 1 to 63 long")]
    Segment,
}

impl Selector {
    /// Reads either form.
    ///
    /// # Errors
    /// [`SelectorError`] by what is wrong first: wildcard, shape, segment.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        if text.contains('*') {
            return Err(SelectorError::Wildcard);
        }
        if text.contains(':') {
            Self::parse_canonical(text)
        } else {
            let mut parts = text.split('/');
            match (parts.next(), parts.next(), parts.next(), parts.next()) {
                (Some(provider), Some(app), Some(account), None) => {
                    Self::from_parts(provider, app, account)
                }
                _ => Err(SelectorError::Shape),
            }
        }
    }

    fn parse_canonical(text: &str) -> Result<Self, SelectorError> {
        let mut parts = text.split(':');
        let mut labelled = |label: &str| match (parts.next(), parts.next()) {
            (Some(found), Some(segment)) if found == label => Ok(segment),
            _ => Err(SelectorError::Shape),
        };
        let provider = labelled("provider")?;
        let app = labelled("app")?;
        let account = labelled("account")?;
        if parts.next().is_some() {
            return Err(SelectorError::Shape);
        }
        Self::from_parts(provider, app, account)
    }

    /// Builds one from its three parts.
    ///
    /// # Errors
    /// [`SelectorError::Wildcard`] or [`SelectorError::Segment`].
    pub fn from_parts(provider: &str, app: &str, account: &str) -> Result<Self, SelectorError> {
        let parts = [provider, app, account];
        if parts.iter().any(|part| part.contains('*')) {
            return Err(SelectorError::Wildcard);
        }
        if !parts.iter().all(|part| is_segment(part)) {
            return Err(SelectorError::Segment);
        }
        let mut short = String::with_capacity(MAX_SHORT);
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                short.push('/');
            }
            short.push_str(part);
        }
        Ok(Self {
            short: Arc::from(short),
        })
    }

    /// `provider/app/account`.
    pub fn short(&self) -> &str {
        &self.short
    }

    /// Provider, app, account.
    pub fn parts(&self) -> (&str, &str, &str) {
        // Both slashes are there by construction; a missing one would only yield empty parts.
        let (provider, rest) = self.short.split_once('/').unwrap_or_default();
        let (app, account) = rest.split_once('/').unwrap_or_default();
        (provider, app, account)
    }
}

/// The canonical form.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (provider, app, account) = self.parts();
        write!(f, "provider:{provider}:app:{app}:account:{account}")
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short)
    }
}

/// Whether `text` is one segment: `[a-z0-9][a-z0-9._-]{0,62}`.
pub fn is_segment(text: &str) -> bool {
    let bytes = text.as_bytes();
    let starts_well = bytes
        .first()
        .is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    starts_well
        && bytes.len() <= 63
        && bytes.iter().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-')
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cases::many;
    use crate::model::{Action, Scope, SelectorPattern};

    #[test]
    fn both_forms_are_the_same_selector() {
        let short = Selector::parse("gcp/billing-prod/deploy-bot").unwrap();
        let canonical =
            Selector::parse("provider:gcp:app:billing-prod:account:deploy-bot").unwrap();
        assert_eq!(short, canonical);
        assert_eq!(
            short.to_string(),
            "provider:gcp:app:billing-prod:account:deploy-bot"
        );
        assert_eq!(canonical.short(), "gcp/billing-prod/deploy-bot");
        assert_eq!(short.parts(), ("gcp", "billing-prod", "deploy-bot"));
    }

    /// PO-3, LC-1: wildcard, partial and confusable selectors are refused, each by its fault.
    #[test]
    fn what_is_not_specific_is_refused() {
        let long = format!("gcp/{}/x", "a".repeat(64));
        let rows: &[(&str, &str, SelectorError)] = &[
            (
                "wildcard account",
                "gcp/billing-prod/*",
                SelectorError::Wildcard,
            ),
            (
                "wildcard inside",
                "gcp/bill*/deploy-bot",
                SelectorError::Wildcard,
            ),
            (
                "wildcard canonical",
                "provider:*:app:a:account:b",
                SelectorError::Wildcard,
            ),
            ("empty", "", SelectorError::Shape),
            ("provider only", "gcp", SelectorError::Shape),
            ("no account", "gcp/billing-prod", SelectorError::Shape),
            ("four parts", "gcp/a/b/c", SelectorError::Shape),
            ("empty account", "gcp/a/", SelectorError::Segment),
            ("leading slash", "/gcp/a/b", SelectorError::Shape),
            (
                "canonical without provider",
                "app:a:account:b",
                SelectorError::Shape,
            ),
            (
                "canonical reordered",
                "app:a:provider:gcp:account:b",
                SelectorError::Shape,
            ),
            (
                "canonical with a tail",
                "provider:g:app:a:account:b:x:y",
                SelectorError::Shape,
            ),
            (
                "canonical twice a part",
                "provider:g:app:a:app:b",
                SelectorError::Shape,
            ),
            ("upper case", "gcp/Billing/bot", SelectorError::Segment),
            (
                "cyrillic a",
                "gcp/billing-prod/\u{430}dmin",
                SelectorError::Segment,
            ),
            (
                "full-width letter",
                "gcp/\u{ff42}illing/bot",
                SelectorError::Segment,
            ),
            (
                "zero-width joiner",
                "gcp/billing\u{200d}/bot",
                SelectorError::Segment,
            ),
            ("space", "gcp/billing prod/bot", SelectorError::Segment),
            ("leading blank", " gcp/a/b", SelectorError::Segment),
            ("line feed", "gcp/a/b\n", SelectorError::Segment),
            ("nul", "gcp/a/b\0", SelectorError::Segment),
            ("percent", "gcp/a/%62", SelectorError::Segment),
            ("dots only", "gcp/../b", SelectorError::Segment),
            ("leading dash", "gcp/-a/b", SelectorError::Segment),
            ("64 characters", &long, SelectorError::Segment),
            ("question mark", "gcp/a?/b", SelectorError::Segment),
            ("brackets", "gcp/[ab]/b", SelectorError::Segment),
        ];
        for (name, text, error) in rows {
            assert_eq!(Selector::parse(text), Err(*error), "{name}");
        }
    }

    #[test]
    fn the_longest_segment_is_63_bytes() {
        assert!(is_segment(&"a".repeat(63)));
        assert!(!is_segment(&"a".repeat(64)));
    }

    const SEGMENT: &str = "[a-z0-9][a-z0-9._-]{0,62}";

    proptest! {
        #![proptest_config(many())]

        /// What is printed reads back as what it was, alone, in a scope and in a rule.
        #[test]
        fn selectors_read_back_as_printed(
            parts in [SEGMENT; 3],
            action in prop::sample::select(&Action::ALL),
            wild: [bool; 3],
        ) {
            let [provider, app, account] = &parts;
            let selector = Selector::from_parts(provider, app, account).unwrap();
            prop_assert_eq!(selector.parts(), (&**provider, &**app, &**account));
            prop_assert_eq!(Selector::parse(selector.short()), Ok(selector.clone()));
            prop_assert_eq!(Selector::parse(&selector.to_string()), Ok(selector.clone()));
            let mut patterned = parts.clone();
            for (part, wild) in patterned.iter_mut().zip(wild) {
                if wild {
                    "*".clone_into(part);
                }
            }
            let pattern = SelectorPattern::parse(&patterned.join("/")).unwrap();
            prop_assert!(pattern.matches(&selector));
            prop_assert_eq!(SelectorPattern::parse(&pattern.to_string()), Ok(pattern));
            let scope = Scope { action, selector };
            prop_assert_eq!(Scope::parse(&scope.to_string()), Ok(scope));
        }

        /// Two texts that are read as one selector are its two forms: nothing is folded,
        /// trimmed or decoded.
        #[test]
        fn what_is_read_is_what_was_written(text in "(provider:)?[a-c]{1,2}[/:]?(app:)?[a-cA*. ]{1,2}[/:](account:)?[a-c\u{e4}]{1,2}[ \n]?") {
            if let Ok(selector) = Selector::parse(&text) {
                prop_assert!(text == selector.short() || text == selector.to_string());
            }
        }
    }
}
