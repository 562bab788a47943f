use std::sync::Arc;
use std::time::Duration;

use super::{Action, CleanText, Injection, Scope, Selector};

/// One entry of a profile's catalogue: something that may at least be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// What it is.
    pub selector: Selector,
    /// What it is for, in a person's words, at most 200 characters.
    pub description: Option<CleanText>,
    /// What the login asks for; create, redeem and revoke unless said otherwise.
    pub actions: Vec<Action>,
    /// How long its leases live unless a caller asks otherwise, 30 s to 1 h.
    pub ttl: Duration,
    /// It only looks like the others: nobody gets it, and who asks for it is noticed.
    pub decoy: bool,
    /// Where the broker itself may use its credential; nowhere without.
    pub inject: Option<Arc<Injection>>,
}

impl Target {
    /// The scopes a login needs for it; none for a decoy, which the issuer never hears of.
    pub fn scopes(&self) -> impl Iterator<Item = Scope> {
        let actions = if self.decoy { &[] } else { &*self.actions };
        actions.iter().map(|action| Scope {
            action: *action,
            selector: self.selector.clone(),
        })
    }
}
