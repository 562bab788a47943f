//! A daemon that holds as much as it can be made to hold, and one that holds little.

use std::path::Path;

use crate::args::Failed;
use crate::house::{Furniture, House};
use crate::household::request;
use crate::load::{self, Exchange, Run};
use crate::machine::Memory;

/// Selectors with material: a login asks for at most 96 scopes, and each takes two.
/// Leases: as many as may live at once.
const MUCH: Furniture = Furniture {
    accounts: 48,
    leases: 1024,
    actions: &["create", "redeem"],
};

const LITTLE: Furniture = Furniture {
    accounts: 10,
    leases: 10,
    actions: MUCH.actions,
};

/// Both.
#[derive(Debug)]
pub(crate) struct Scale {
    much: House,
    little: House,
    exchange: Exchange,
    said: String,
}

impl Scale {
    pub(crate) fn prepare(bin: &Path) -> Result<Self, Failed> {
        let much = House::start(bin, MUCH)?;
        let little = House::start(bin, LITTLE)?;
        let of = |house: &House, held: Furniture| {
            format!(
                "{} selectors and {} leases: {}",
                held.accounts,
                held.leases,
                Memory::of(house.daemon().1)
            )
        };
        let said = format!("scale: {}; {}.", of(&much, MUCH), of(&little, LITTLE));
        Ok(Self {
            exchange: Exchange::learn(load::connect(little.daemon().0)?, &request())?,
            much,
            little,
            said,
        })
    }

    pub(crate) fn keep_logged_in(&mut self) -> Result<(), Failed> {
        self.much.keep_logged_in()?;
        self.little.keep_logged_in()?;
        Ok(())
    }

    /// Cached requests for one of the selectors.
    pub(crate) fn run(&self, is_little: bool, requests: u32) -> Result<Run, Failed> {
        let house = if is_little { &self.little } else { &self.much };
        load::run(house.daemon(), &self.exchange, 1, requests)
    }

    pub(crate) fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    /// What both take in memory before the first timed request.
    pub(crate) fn said(&self) -> &str {
        &self.said
    }

    pub(crate) fn stop(self) -> Result<(), Failed> {
        self.much.stop()?;
        self.little.stop()
    }
}
