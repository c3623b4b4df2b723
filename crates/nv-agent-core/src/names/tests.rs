use super::dns::samples::{address, name, query, record, response};
use super::*;
use nv_types::{Criterion, CriterionOp, Group, GroupKind};

const GRACE: u64 = 10 * SECOND;
const ASKED_NAME: &[u8] = &[0xc0, 12];

fn at(seconds: u64) -> Steady {
    Steady(seconds * SECOND)
}

fn web() -> WorkloadId {
    "web".parse().unwrap()
}

fn wanted(patterns: &[&str]) -> Wanted {
    let criteria = patterns.iter().map(|pattern| Criterion {
        key: "address".into(),
        value: (*pattern).into(),
        op: CriterionOp::Equal,
    });
    Wanted::new([&Group {
        name: "sites".parse().unwrap(),
        kind: GroupKind::Address,
        origin: None,
        comment: String::new(),
        domain: String::new(),
        criteria: criteria.collect(),
    }])
}

fn book() -> NameBook {
    let mut book = NameBook {
        rules: NameRules {
            listens: true,
            grace: GRACE,
            ..NameRules::default()
        },
        ..NameBook::default()
    };
    book.want(wanted(&["*.example.test"]));
    book.resolvers(web(), ["10.0.0.53".parse().unwrap()].into());
    book
}

fn seen(message: Vec<u8>, token: Option<u64>) -> DnsSeen {
    DnsSeen {
        ifindex: 7,
        is_answer: token.is_some(),
        proto: IpProto::UDP,
        local: "10.0.0.2:40000".parse().unwrap(),
        resolver: "10.0.0.53:53".parse().unwrap(),
        message: Some(message),
        token,
    }
}

fn asks(book: &mut NameBook, id: u16, of: &str, now: Steady) {
    assert_eq!(book.hear(&seen(query(id, of, 1), None), Some(&web()), now), None);
}

fn reply(id: u16, of: &str, seconds: u32, to: &str) -> DnsSeen {
    let records = [address(ASKED_NAME, seconds, to.parse().unwrap())];
    seen(response(id, of, 1, &records), Some(u64::from(id)))
}

fn known(book: &NameBook) -> Vec<(String, Vec<String>)> {
    book.iter()
        .map(|(name, list)| (name.to_owned(), list.iter().map(ToString::to_string).collect()))
        .collect()
}

fn released(book: &mut NameBook, now: Steady) -> Vec<u64> {
    let mut released = Vec::new();
    book.tick(now, &mut released);
    released
}

#[test]
fn an_answer_waits_until_its_addresses_are_in_force_and_no_longer_than_a_second() {
    let mut book = book();
    asks(&mut book, 1, "API.example.test", at(1));
    let answer = reply(1, "api.example.test", 60, "192.0.2.1");
    assert_eq!(book.hear(&answer, Some(&web()), at(1)), None, "it waits");
    assert_eq!(released(&mut book, at(1)), [0; 0]);
    assert_eq!(book.due(), Some(Steady(2 * SECOND)));
    book.applied(book.generation());
    assert_eq!(released(&mut book, at(1)), [1]);
    let changed = book.take_changed();
    assert_eq!(changed.len(), 1);
    assert_eq!(changed[0].0, "api.example.test");
    // The same answer again brings nothing new.
    asks(&mut book, 2, "api.example.test", at(2));
    let again = reply(2, "api.example.test", 60, "192.0.2.1");
    assert_eq!(book.hear(&again, Some(&web()), at(2)), Some(2));
    assert!(book.take_changed().is_empty());
    // A policy that does not come: the answer goes on, and that is counted.
    asks(&mut book, 3, "new.example.test", at(3));
    let new = reply(3, "new.example.test", 60, "192.0.2.3");
    assert_eq!(book.hear(&new, Some(&web()), at(3)), None);
    assert_eq!(released(&mut book, at(4)), [3]);
    assert_eq!(book.counts().collect::<Vec<_>>(), [("names_late".to_owned(), 1)]);
}

#[test]
fn an_answer_that_is_sent_again_does_not_overtake_the_tables_and_a_second_one_is_not_believed() {
    let mut book = book();
    asks(&mut book, 1, "api.example.test", at(1));
    let answer = reply(1, "api.example.test", 60, "192.0.2.1");
    let again = DnsSeen {
        token: Some(2),
        ..answer.clone()
    };
    assert_eq!(book.hear(&answer, Some(&web()), at(1)), None);
    assert_eq!(book.hear(&again, Some(&web()), at(1)), None, "it waits as well");
    let mut second = reply(1, "api.example.test", 60, "192.0.2.66");
    second.token = Some(3);
    assert_eq!(book.hear(&second, Some(&web()), at(1)), None);
    assert_eq!(
        known(&book),
        [("api.example.test".to_owned(), vec!["192.0.2.1".to_owned()])]
    );
    book.applied(book.generation());
    assert_eq!(released(&mut book, at(1)), [1, 2, 3]);
    let late = DnsSeen {
        token: Some(4),
        ..answer
    };
    assert_eq!(book.hear(&late, Some(&web()), at(1)), Some(4), "in force");
}

#[test]
fn only_the_answer_to_a_question_that_was_asked_of_a_trusted_resolver_counts() {
    let mut book = book();
    let good = || reply(1, "api.example.test", 60, "192.0.2.1");
    type Forge = Box<dyn Fn(&mut DnsSeen)>;
    let forged: [(&str, Forge); 7] = [
        (
            "another number",
            Box::new(|seen| seen.message.as_mut().unwrap()[1] = 9),
        ),
        ("another port", Box::new(|seen| seen.local.set_port(40_001))),
        (
            "another resolver",
            Box::new(|seen| seen.resolver = "10.0.0.66:53".parse().unwrap()),
        ),
        ("another endpoint", Box::new(|seen| seen.ifindex = 8)),
        ("another way", Box::new(|seen| seen.proto = IpProto::TCP)),
        (
            "another name",
            Box::new(|seen| {
                let records = [address(ASKED_NAME, 60, "192.0.2.1".parse().unwrap())];
                seen.message = Some(response(1, "db.example.test", 1, &records));
            }),
        ),
        ("no whole message", Box::new(|seen| seen.message = None)),
    ];
    for (what, forge) in &forged {
        asks(&mut book, 1, "api.example.test", at(1));
        let mut answer = good();
        forge(&mut answer);
        assert_eq!(book.hear(&answer, Some(&web()), at(1)), Some(1), "{what} goes on");
        assert_eq!(known(&book), [], "{what} teaches nothing");
    }
    // Nobody has asked, or too long ago, or of whom we do not know who it is.
    let mut silent = self::book();
    assert_eq!(silent.hear(&good(), Some(&web()), at(1)), Some(1));
    asks(&mut silent, 1, "api.example.test", at(1));
    assert_eq!(silent.hear(&good(), None, at(1)), Some(1));
    assert_eq!(silent.hear(&good(), Some(&web()), at(40)), Some(1));
    assert_eq!(known(&silent), []);
    // A resolver that nobody trusts is not believed even when it was asked.
    let mut liar = good();
    liar.resolver = "10.0.0.66:53".parse().unwrap();
    let mut question = seen(query(1, "api.example.test", 1), None);
    question.resolver = liar.resolver;
    book.hear(&question, Some(&web()), at(1));
    assert_eq!(book.hear(&liar, Some(&web()), at(1)), Some(1));
    assert_eq!(known(&book), []);
    // Where resolvers are set, a workload's own do not count.
    book.rules.only_these = true;
    book.rules.resolvers.insert(liar.resolver.ip());
    book.hear(&question, Some(&web()), at(1));
    assert_eq!(book.hear(&liar, Some(&web()), at(1)), None, "this one is set");
    asks(&mut book, 2, "db.example.test", at(1));
    let own = reply(2, "db.example.test", 60, "192.0.2.2");
    assert_eq!(book.hear(&own, Some(&web()), at(1)), Some(2));
    assert_eq!(known(&book).len(), 1);
}

#[test]
fn what_no_group_speaks_of_is_not_kept_and_the_name_asked_for_is_the_one_that_counts() {
    let mut book = book();
    asks(&mut book, 1, "www.shop.test", at(1));
    let other = reply(1, "www.shop.test", 60, "192.0.2.1");
    assert_eq!(book.hear(&other, Some(&web()), at(1)), Some(1));
    // An alias that a group speaks of does not make the asked name one of its.
    let alias = |of| {
        let records = [
            record(ASKED_NAME, 5, 60, &name("x.example.test")),
            address(&name("x.example.test"), 60, "192.0.2.9".parse().unwrap()),
        ];
        seen(response(3, of, 1, &records), Some(3))
    };
    asks(&mut book, 3, "www.shop.test", at(1));
    assert_eq!(book.hear(&alias("www.shop.test"), Some(&web()), at(1)), Some(3));
    assert_eq!(known(&book), []);
    asks(&mut book, 3, "y.example.test", at(1));
    assert_eq!(book.hear(&alias("y.example.test"), Some(&web()), at(1)), None);
    assert_eq!(
        known(&book),
        [("y.example.test".to_owned(), vec!["192.0.2.9".to_owned()])]
    );
    // Nobody asks about it any more.
    book.want(wanted(&["api.other.test"]));
    released(&mut book, at(1));
    assert_eq!(known(&book), []);
}

#[test]
fn an_address_counts_for_its_time_and_the_grace_and_flows_of_that_time_keep_it() {
    let peer: IpAddr = "192.0.2.1".parse().unwrap();
    let learned = || {
        let mut book = book();
        asks(&mut book, 1, "api.example.test", at(1));
        book.hear(&reply(1, "api.example.test", 5, "192.0.2.1"), Some(&web()), at(1));
        book.take_changed();
        book
    };
    let mut book = learned();
    released(&mut book, at(15));
    assert_eq!(known(&book).len(), 1, "5 seconds and 10 of grace");
    let mut over = Vec::new();
    assert!(book.tick(at(16), &mut over));
    assert_eq!(
        book.take_changed(),
        [("api.example.test".to_owned(), BTreeSet::new())]
    );

    let mut book = learned();
    for second in 2..60 {
        book.flow(peer, at(2), at(second));
        released(&mut book, at(second));
        assert_eq!(known(&book).len(), 1, "a flow of its time moves");
    }
    // One that began later keeps nothing.
    book.flow(peer, at(30), at(65));
    released(&mut book, at(69));
    assert_eq!(known(&book), []);

    // Asked again, it counts on.
    let mut book = learned();
    asks(&mut book, 2, "api.example.test", at(14));
    book.hear(
        &reply(2, "api.example.test", 5, "192.0.2.1"),
        Some(&web()),
        at(14),
    );
    released(&mut book, at(28));
    assert_eq!(known(&book).len(), 1);
    released(&mut book, at(29));
    assert_eq!(known(&book), []);
}

#[test]
fn one_workload_cannot_fill_the_memory_of_another() {
    let mut book = book();
    for number in 0..2000u16 {
        asks(&mut book, number, "api.example.test", at(1));
    }
    let mut other = seen(query(1, "db.example.test", 1), None);
    other.ifindex = 8;
    book.hear(&other, Some(&web()), at(1));
    let mut answer = reply(1, "db.example.test", 60, "192.0.2.2");
    answer.ifindex = 8;
    assert_eq!(book.hear(&answer, Some(&web()), at(1)), None);
    let refused = book.counts().collect::<Vec<_>>();
    assert_eq!(refused, [("names_refused".to_owned(), 2000 - QUESTIONS as u64)]);
    // Their time over, there is room again.
    asks(&mut book, 3000, "api.example.test", at(40));
    let late = reply(3000, "api.example.test", 60, "192.0.2.3");
    assert_eq!(book.hear(&late, Some(&web()), at(40)), None);
}

#[test]
fn what_an_agent_before_wrote_is_kept_for_the_grace() {
    let mut book = book();
    book.adopt(
        "api.example.test",
        &["192.0.2.1".parse().unwrap()].into(),
        at(100),
    );
    book.flow("192.0.2.1".parse().unwrap(), at(50), at(105));
    released(&mut book, at(111));
    assert_eq!(known(&book).len(), 1, "a flow from before keeps it");
    released(&mut book, at(115));
    assert_eq!(known(&book), []);
}
