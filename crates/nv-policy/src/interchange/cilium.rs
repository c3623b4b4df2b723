//! Cilium's policies.
use super::Meta;
use super::cursor::{Fields, Notes, Problem};
use super::layers::{Object, Policies, Style};
use serde_json::Value;
pub(super) fn read(
    fields: &mut Fields<'_>,
    _: &Meta,
    _: &mut Notes<'_>,
    _: &mut Policies,
) -> Result<(), Problem> {
    Err(fields.here.invalid("not yet"))
}
pub(super) struct Writer;
impl Style for Writer {
    const DENIES: bool = true;
    const CLUSTERWIDE: bool = true;
    const NAMES: bool = true;
    fn document(&self, _: &Object) -> Value {
        Value::Null
    }
}
