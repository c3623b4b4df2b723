//! Filter words: the same for `flows` (asked of the controller or of a file) and for lists of who talked to whom.
//!
//! Made by hand, not derived: `--not` speaks of the word after it, so the order counts.

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use clap_complete::ArgValueCompleter;
use nv_api::filter::{Clause, FlowFilter, Of, Side, Word};

use crate::complete;

const HEADING: &str = "Filter words (repeat one, or put commas, for 'or'; different ones are 'and')";

/// What the filter words of a command line ask. `NAMES`: whether words without an option are names of either end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters<const NAMES: bool>(FlowFilter);

impl<const NAMES: bool> Filters<NAMES> {
    /// The filter.
    #[must_use]
    pub const fn filter(&self) -> &FlowFilter {
        &self.0
    }
}

/// What `--help` says of a word.
fn help(word: Word) -> String {
    let whose = |side| match side {
        Side::From => "Client",
        Side::To => "Server",
        Side::Either => "Either end",
    };
    match word {
        Word::End(side, Of::Name) => format!(
            "{}: name, id, service or its group, address, CIDR, 'external'",
            whose(side)
        ),
        Word::End(side, Of::Namespace) => format!("{}: its domain", whose(side)),
        Word::End(side, Of::Workload) => format!("{}: start of its name or id", whose(side)),
        Word::End(side, Of::Label) => format!("{}: a label, KEY=VALUE or KEY", whose(side)),
        Word::End(side, Of::Ip) => format!("{}: address or CIDR", whose(side)),
        Word::End(side, Of::Port) => format!("{}: port", whose(side)),
        Word::End(side, Of::Service) => format!("{}: service or its group", whose(side)),
        Word::Verdict => "allow, alert or deny".to_owned(),
        Word::Protocol => "tcp, udp, icmp, sctp, or a number".to_owned(),
        Word::Application => "Application, such as HTTP; 'unknown' where none was found".to_owned(),
        Word::Family => "4 or 6".to_owned(),
        Word::Node => "Node that saw it".to_owned(),
    }
}

/// Words that are options: all but the names of either end, which stand by themselves, and the family, which is `-4` or `-6`.
fn options() -> impl Iterator<Item = Word> {
    Word::all().filter(|word| !matches!(word, Word::End(Side::Either, Of::Name) | Word::Family))
}

fn option(word: Word) -> Arg {
    let arg = Arg::new(word.name())
        .long(word.name())
        .action(ArgAction::Append)
        .value_delimiter(',')
        .help_heading(HEADING)
        .help(help(word));
    match word {
        Word::End(_, Of::Name | Of::Service | Of::Workload) => {
            arg.value_name("NAME").add(ArgValueCompleter::new(complete::ends))
        }
        Word::Node => arg
            .value_name("NODE")
            .add(ArgValueCompleter::new(complete::nodes)),
        Word::Verdict => arg.value_parser(["allow", "alert", "deny"]),
        Word::End(_, Of::Ip) => arg.value_name("ADDRESS"),
        Word::End(_, Of::Label) => arg.value_name("KEY=VALUE"),
        Word::End(_, Of::Namespace) => arg.value_name("DOMAIN"),
        Word::End(_, Of::Port) => arg.value_name("PORT"),
        _ => arg.value_name("NAME"),
    }
}

/// A switch that may stand several times, each with its place.
fn switch(name: &'static str) -> Arg {
    Arg::new(name)
        .action(ArgAction::Append)
        .num_args(0)
        .value_parser(clap::value_parser!(bool))
        .default_missing_value("true")
        .help_heading(HEADING)
}

impl<const NAMES: bool> Args for Filters<NAMES> {
    fn augment_args(command: Command) -> Command {
        let command = command
            .args(options().map(option))
            .arg(
                switch("ipv4")
                    .short('4')
                    .long("ipv4")
                    .help("IPv4 only")
                    .conflicts_with("ipv6"),
            )
            .arg(switch("ipv6").short('6').long("ipv6").help("IPv6 only"))
            .arg(
                switch("not")
                    .long("not")
                    .help("The next filter word must not hold"),
            );
        if !NAMES {
            return command;
        }
        command.arg(
            Arg::new("either")
                .value_name("NAME")
                .action(ArgAction::Append)
                .num_args(1..)
                .help(help(Word::End(Side::Either, Of::Name)))
                .add(ArgValueCompleter::new(complete::ends)),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// A word with where it stands on the command line.
struct Found {
    place: usize,
    word: Word,
    values: Vec<String>,
    not: bool,
}

fn find(matches: &ArgMatches, name: &str, word: Word, found: &mut Vec<Found>) {
    let (Ok(Some(values)), Some(mut places)) = (
        matches.try_get_occurrences::<String>(name),
        matches.indices_of(name),
    ) else {
        return;
    };
    for values in values {
        let values: Vec<String> = values.cloned().collect();
        let place = places.next();
        for _ in 1..values.len() {
            places.next();
        }
        found.extend(place.map(|place| Found {
            place,
            word,
            values,
            not: false,
        }));
    }
}

fn switched(matches: &ArgMatches, name: &str) -> Vec<usize> {
    if matches.contains_id(name) {
        matches.indices_of(name).into_iter().flatten().collect()
    } else {
        Vec::new()
    }
}

fn wrong(text: impl std::fmt::Display) -> clap::Error {
    clap::Error::raw(ErrorKind::ValueValidation, format!("{text}\n"))
}

impl<const NAMES: bool> FromArgMatches for Filters<NAMES> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut found = Vec::new();
        for word in options() {
            find(matches, word.name(), word, &mut found);
        }
        if NAMES && let Some(names) = matches.get_many::<String>("either") {
            let places = matches.indices_of("either").into_iter().flatten();
            found.extend(names.zip(places).map(|(names, place)| Found {
                place,
                word: Word::End(Side::Either, Of::Name),
                values: names.split(',').map(str::to_owned).collect(),
                not: false,
            }));
        }
        for (name, family) in [("ipv4", "4"), ("ipv6", "6")] {
            found.extend(switched(matches, name).into_iter().map(|place| Found {
                place,
                word: Word::Family,
                values: vec![family.to_owned()],
                not: false,
            }));
        }
        found.sort_by_key(|found| found.place);
        for place in switched(matches, "not") {
            let next = found.iter_mut().find(|found| found.place > place);
            next.ok_or_else(|| wrong("--not: a filter word must follow"))?.not = true;
        }
        let mut filter = FlowFilter::default();
        for found in found {
            if let Some(part) = found.values.iter().find(|part| part.contains(';')) {
                return Err(wrong(format!("'{part}': a filter's value has no ';'")));
            }
            Clause::new(found.not, found.word, &found.values)
                .and_then(|clause| filter.push(clause))
                .map_err(|error| wrong(format!("--{error}")))?;
        }
        Ok(Self(filter))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &str) -> Result<String, String> {
        let command = Filters::<true>::augment_args(Command::new("flows").no_binary_name(true));
        let matches = command
            .try_get_matches_from(args.split_whitespace())
            .map_err(|error| error.to_string())?;
        Filters::<true>::from_arg_matches(&matches)
            .map(|filters| filters.filter().to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn words_keep_their_order_and_not_speaks_of_the_next() {
        for (args, filter) in [
            ("", ""),
            ("--from web --to app", "from web;to app"),
            ("--from web,db --from app", "from web,db,app"),
            ("--not --from web,db --to app", "not from web,db;to app"),
            (
                "--from web --not --to app --port 80",
                "from web;not to app;port 80",
            ),
            ("--not --from web --from app", "not from web;from app"),
            ("--not --from web --not --from app", "not from web;not from app"),
            ("web", "either web"),
            ("--not web --verdict deny", "not either web;verdict deny"),
            ("web 10.0.0.0/8", "either web,10.0.0.0/8"),
            ("-4 --to-ip 10.0.0.0/8", "family 4;to-ip 10.0.0.0/8"),
            ("--not -6", "not family 6"),
            (
                "--label app=web --from-label tier",
                "label app=web;from-label tier",
            ),
            (
                "--application HTTP --node here --service web",
                "application HTTP;node here;service web",
            ),
        ] {
            assert_eq!(read(args).as_deref(), Ok(filter), "{args}");
        }
    }

    #[test]
    fn what_cannot_be_asked_is_named() {
        for (args, says) in [
            ("--from web --not", "--not"),
            ("--not", "--not"),
            ("-4 -6", "--ipv6"),
            ("--port 99999", "'99999'"),
            ("--from-ip 10.0.0.0/33", "from-ip: '10.0.0.0/33'"),
            ("--verdict denied", "denied"),
            ("--from a;b", "';'"),
        ] {
            let error = read(args).unwrap_err();
            assert!(error.contains(says), "{args}: {error}");
        }
    }
}
