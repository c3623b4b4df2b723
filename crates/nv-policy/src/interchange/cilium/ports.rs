//! Ports of Cilium's policies, and what stands on them.

use nv_types::{Application, IpProto, PortRange, PortSpec};

use super::APPLICATIONS;
use crate::interchange::cursor::{At, Notes, Problem};
use crate::interchange::layers::protocol;
use crate::interchange::note::Reason;

/// Ports of an entry, and the application that its L7 conditions are about.
pub(super) type Ports = (Vec<PortSpec>, Option<Application>);

/// Reads an entry of `toPorts`; `None` when it was left out.
pub(super) fn read_ports(at: &At<'_>, notes: &mut Notes<'_>) -> Result<Option<Ports>, Problem> {
    let mut fields = at.fields()?;
    let ports = fields.take("ports");
    let rules = fields.take("rules").filter(|at| !at.node.is_empty());
    if fields.finish(notes) {
        let text = "its conditions cannot be carried over";
        notes.lost(at, Reason::PortLeftOut(text.to_owned()));
        return Ok(None);
    }
    let mut specs = Vec::new();
    for item in ports.map(|at| at.items()).transpose()?.unwrap_or_default() {
        specs.extend(read_port(&item, notes)?);
    }
    if specs.is_empty() {
        notes.lost(at, Reason::PortLeftOut("no port is left".to_owned()));
        return Ok(None);
    }
    let application = rules.map(|at| layer7(&at, notes)).transpose()?.flatten();
    Ok(Some((specs, application)))
}

/// Conditions on requests are not there; the protocol that they are about is.
fn layer7(at: &At<'_>, notes: &mut Notes<'_>) -> Result<Option<Application>, Problem> {
    let mut fields = at.fields()?;
    let mut found = None;
    let mut whole = true;
    for (key, name) in APPLICATIONS {
        let Some(at) = fields.take(key).filter(|at| !at.node.is_empty()) else {
            continue;
        };
        found = name.parse().ok();
        for item in at.items()? {
            let mut condition = item.fields()?;
            // 'every name' and no condition at all are the same.
            let every = condition
                .take("matchPattern")
                .is_some_and(|at| at.text().is_ok_and(|text| text == "*"));
            whole &= every || item.node.is_empty();
        }
    }
    whole &= !fields.leave(&["l7proto", "l7"], "protocols of plug-ins are not there", notes);
    whole &= !fields.finish(notes);
    if !whole {
        let what = found.map_or_else(
            || "everything".to_owned(),
            |app: Application| format!("all of {app}"),
        );
        let text = format!(
            "conditions of layer 7 are not there: {what} is let through on these ports, which is wider"
        );
        notes.lost(at, Reason::Value(text));
    }
    Ok(found)
}

fn read_port(at: &At<'_>, notes: &mut Notes<'_>) -> Result<Vec<PortSpec>, Problem> {
    let mut fields = at.fields()?;
    let port = fields.need("port")?;
    let protocols = match fields.take("protocol") {
        None => Vec::new(),
        Some(at) => match at.text()? {
            "ANY" => Vec::new(),
            text => match protocol(text) {
                Some(proto) => vec![proto],
                None => return Err(at.invalid(format!("'{text}' is no protocol: TCP, UDP, SCTP or ANY"))),
            },
        },
    };
    let end = fields.take("endPort");
    if fields.finish(notes) {
        notes.lost(
            at,
            Reason::PortLeftOut("it has a field that is not known".to_owned()),
        );
        return Ok(Vec::new());
    }
    let protocols = if protocols.is_empty() {
        vec![IpProto::TCP, IpProto::UDP, IpProto::SCTP]
    } else {
        protocols
    };
    let text = port.text()?;
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        let text = format!("the name '{text}' stands for a port that only the pods know");
        notes.lost(&port, Reason::PortLeftOut(text));
        return Ok(Vec::new());
    }
    let number = |at: &At<'_>| {
        let wanted = "a port from 0 to 65535";
        u16::try_from(at.number(wanted)?).map_err(|_| at.invalid(format!("{wanted} is needed")))
    };
    let first = number(&port)?;
    let last = match end.as_ref().map(number).transpose()? {
        Some(0) | None => first,
        Some(last) if last >= first => last,
        Some(_) => return Err(at.invalid("'endPort' is below 'port'")),
    };
    // Port 0 is every port.
    let range = if first == 0 {
        PortRange::ALL
    } else {
        PortRange { first, last }
    };
    Ok(protocols
        .into_iter()
        .map(|proto| PortSpec::Ports(proto, range))
        .collect())
}
