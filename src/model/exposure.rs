/// How far credential material may travel. Ordered: `use` < `exec` < `reveal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exposure {
    /// The broker uses it; nobody sees it.
    Use,
    /// A child process of the person's gets it.
    Exec,
    /// The caller gets it.
    Reveal,
}

impl Exposure {
    /// All of them, least first.
    pub const ALL: [Self; 3] = [Self::Use, Self::Exec, Self::Reveal];

    /// The word in policy, records and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Use => "use",
            Self::Exec => "exec",
            Self::Reveal => "reveal",
        }
    }

    /// The exposure of that word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|exposure| exposure.as_str() == text)
    }
}
