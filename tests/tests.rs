//! Everything that is tested from outside, in one binary.

mod side_by_side;
mod smoke;
mod support;
