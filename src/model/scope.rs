use std::fmt;

use super::selector::{Selector, SelectorError};

/// What may be done with a lease. Each is granted on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Make a lease.
    Create,
    /// Turn a lease into credential material.
    Redeem,
    /// End a lease.
    Revoke,
}

impl Action {
    /// All of them, in the order of a lease's life.
    pub const ALL: [Self; 3] = [Self::Create, Self::Redeem, Self::Revoke];

    /// The word on the wire and in configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Redeem => "redeem",
            Self::Revoke => "revoke",
        }
    }

    /// The action of that word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == text)
    }
}

/// An action bound to a selector: `credential.lease.create:provider:…:app:…:account:…`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope {
    /// What may be done.
    pub action: Action,
    /// With what.
    pub selector: Selector,
}

/// Why a text is not a scope. Never quotes the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// Another prefix than `credential.lease.`, or an action nobody knows.
    #[error("unknown scope")]
    Unknown,
    /// An action without a selector, which is worth nothing.
    #[error("a scope binds an action to a selector")]
    ActionOnly,
    /// The selector is not one.
    #[error(transparent)]
    Selector(#[from] SelectorError),
}

impl Scope {
    /// Reads the wire form; the selector must be canonical.
    ///
    /// # Errors
    /// [`ScopeError`].
    pub fn parse(text: &str) -> Result<Self, ScopeError> {
        let rest = text
            .strip_prefix("credential.lease.")
            .ok_or(ScopeError::Unknown)?;
        let (action, selector) = match rest.split_once(':') {
            Some((action, selector)) => (action, Some(selector)),
            None => (rest, None),
        };
        let action = Action::parse(action).ok_or(ScopeError::Unknown)?;
        let selector = selector.ok_or(ScopeError::ActionOnly)?;
        if !selector.starts_with("provider:") {
            return Err(SelectorError::Shape.into());
        }
        Ok(Self {
            action,
            selector: Selector::parse(selector)?,
        })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "credential.lease.{}:{}",
            self.action.as_str(),
            self.selector
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_reads_back_as_written() {
        for action in Action::ALL {
            let scope = Scope {
                action,
                selector: Selector::parse("gcp/billing-prod/deploy-bot").unwrap(),
            };
            assert_eq!(Scope::parse(&scope.to_string()), Ok(scope));
        }
    }

    /// LC-1: an action without a selector is worth nothing.
    #[test]
    fn scopes_without_an_exact_selector_are_refused() {
        let rows = [
            (
                "action only",
                "credential.lease.create",
                ScopeError::ActionOnly,
            ),
            (
                "unknown action",
                "credential.lease.read:provider:g:app:a:account:b",
                ScopeError::Unknown,
            ),
            (
                "unknown prefix",
                "credential.create:provider:g:app:a:account:b",
                ScopeError::Unknown,
            ),
            (
                "short selector",
                "credential.lease.create:g/a/b",
                ScopeError::Selector(SelectorError::Shape),
            ),
            (
                "wildcard",
                "credential.lease.create:provider:g:app:*:account:b",
                ScopeError::Selector(SelectorError::Wildcard),
            ),
        ];
        for (name, text, error) in rows {
            assert_eq!(Scope::parse(text), Err(error), "{name}");
        }
    }
}
