use rmcp::model::Tool;

use super::{Name, Touch, describe};
use crate::mcp::wire::{LeaseRevokeArguments, LeaseRevokeReply};

const DESCRIPTION: &str = "Ends a lease this client created, here and at the issuer: what it gave out stops working. \
Doing it again changes nothing. Cannot end another client's lease. Next: nothing; create a new \
lease when the credential is needed again.";

pub(super) fn tool() -> Tool {
    describe::<LeaseRevokeArguments, LeaseRevokeReply>(
        Name::LeaseRevoke,
        "Revoke lease",
        DESCRIPTION,
        Touch::Ends,
    )
}
