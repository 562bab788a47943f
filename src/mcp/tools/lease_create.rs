use rmcp::model::Tool;

use super::{Name, Touch, describe};
use crate::mcp::wire::{LeaseCreateArguments, LeaseCreateReply};

const DESCRIPTION: &str = "Creates a lease: the right to use one credential for a short time. Answers with a handle, its \
end, and how a program redeems it; never with the credential itself. The lease ends by itself \
(at most an hour, by default a few minutes), and with this client's process. The handle alone \
proves nothing: the policy judges whoever redeems it. Next: let the program that needs the \
credential redeem the handle, without printing what it gets; call lease_revoke when done.";

pub(super) fn tool() -> Tool {
    describe::<LeaseCreateArguments, LeaseCreateReply>(
        Name::LeaseCreate,
        "Create lease",
        DESCRIPTION,
        Touch::Adds,
    )
}
