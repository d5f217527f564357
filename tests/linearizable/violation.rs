//! A broken promise, told in the few operations that show it.

use std::fmt;

/// What was promised, and who shows that it was not kept.
#[derive(Debug)]
pub struct Violation {
    claim: String,
    shown_by: Vec<String>,
}

impl Violation {
    /// From a sentence and the lines that show it.
    pub fn new(claim: impl Into<String>, shown_by: impl IntoIterator<Item = String>) -> Violation {
        Violation { claim: claim.into(), shown_by: shown_by.into_iter().collect() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.claim)?;
        for line in &self.shown_by {
            // The whole of it is in the file.
            writeln!(f, "    {line:.2000}")?;
        }
        Ok(())
    }
}
