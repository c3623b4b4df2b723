//! Groups, rules and workloads to tables; a lookup, and why it came out so.

#![allow(clippy::print_stdout, reason = "what an example prints is its purpose")]

use std::collections::BTreeMap;

use nv_policy::{Book, PolicyInput, Query, Tables, compile, explain, rule};
use nv_types::{
    Action, Criterion, CriterionOp, Direction, Group, GroupKind, Interface, IpProto, Mode, Revision, Tier,
    Workload,
};

fn workload(name: &str, address: &str) -> anyhow::Result<Workload> {
    Ok(Workload {
        name: name.into(),
        runtime: "docker".into(),
        image: format!("shop/{name}:1"),
        labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
        interfaces: vec![Interface {
            name: "eth0".into(),
            index: 2,
            host_index: Some(7),
            addresses: vec![(address.parse()?, 24)],
            ..Interface::default()
        }],
        ..Workload::new(name.parse()?, "node1".parse()?, name)
    })
}

fn main() -> anyhow::Result<()> {
    let mut input = PolicyInput::default();
    for (name, address) in [("web", "10.0.0.2"), ("app", "10.0.0.3"), ("db", "10.0.0.4")] {
        let workload = workload(name, address)?;
        input.add_service_group(&workload);
        input.workloads.insert(workload.id.clone(), workload);
    }
    // A group of its own, by image, and a rule that names it.
    let shop = Group {
        name: "frontends".parse()?,
        kind: GroupKind::Container,
        origin: Some(Tier::User),
        comment: String::new(),
        domain: String::new(),
        criteria: vec![Criterion {
            key: "image".into(),
            value: "shop/web*".into(),
            op: CriterionOp::Equal,
        }],
    };
    nv_policy::validate_group(&shop)?;
    input.groups.insert(shop.name.clone(), shop);
    let allow = rule(1, "frontends", "nv.app", "tcp/8080", Action::Allow)?;
    nv_policy::validate_rule(&allow, &input)?;
    input.rules.push(allow);
    input.modes.insert("nv.app".parse()?, Mode::Protect);

    let compiled = compile(&input, &"node1".parse()?, Revision(1))?;
    let image = &compiled.image;
    println!(
        "{} identities, {} addresses, {} pairs, {} port entries, {} chains",
        compiled.identities.len(),
        image.addresses.len(),
        image.pairs.len(),
        image.ports.len(),
        image.decisions.len()
    );

    let tables = Tables::new(image);
    let book = Book::new(&input);
    for (client, address, port) in [
        ("web", "10.0.0.2", 8080),
        ("web", "10.0.0.2", 9090),
        ("db", "10.0.0.4", 8080),
    ] {
        let found = tables.lookup(
            &"app".parse()?,
            Direction::Ingress,
            address.parse()?,
            IpProto::TCP,
            port,
            None,
        );
        let decision = found.and_then(|found| found.decision());
        println!("\ntables say of {client} -> app tcp/{port}: {decision:?}");
        let party = |name: &str| anyhow::Ok((name.to_owned(), book.workload(&input.workloads[name])));
        let query = Query {
            client: party(client)?,
            server: party("app")?,
            proto: IpProto::TCP,
            port,
            app: None,
        };
        print!("{}", explain(&input, &query).text);
    }
    Ok(())
}
