//! Names of services and domains that can be a group's.
//!
//! Runtimes give any text. As a learned group is named by its service, a workload whose service cannot be part of a name would
//! belong to no group, have no mode, and be in no image. The rule is NeuVector's: what is not printable ASCII goes, and what would need
//! quoting in a URL (`/ ? % & space`) becomes `:`. Names of any length are kept apart by a number when they are cut.

use nv_types::Workload;

/// `nv.<service>.<domain>` stays below the 256 bytes of a group's name.
const LONGEST_SERVICE: usize = 160;
const LONGEST_DOMAIN: usize = 80;

/// Gives a workload a service and a domain that can be named. A service of which nothing is left is the container's name, and if that is no
/// better its id.
pub(crate) fn settle(workload: &mut Workload) {
    let service = [&workload.service, &workload.name, workload.id.as_str()]
        .into_iter()
        .map(|text| clean(text, LONGEST_SERVICE))
        .find(|text| !text.is_empty())
        // An id of other alphabets only.
        .unwrap_or_else(|| format!("{:016x}", fingerprint(workload.id.as_str())));
    workload.service = service;
    workload.domain = clean(&workload.domain, LONGEST_DOMAIN);
}

fn clean(text: &str, longest: usize) -> String {
    let mut cleaned: String = text
        .chars()
        .filter(|c| (' '..='~').contains(c))
        .map(|c| if "/?%& ".contains(c) { ':' } else { c })
        .collect();
    if cleaned.len() > longest {
        cleaned.truncate(longest - 17);
        cleaned.push_str(&format!("-{:016x}", fingerprint(text)));
    }
    cleaned
}

/// FNV-1a: the same on every node and in every version.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settled(service: &str, domain: &str, name: &str) -> Workload {
        let mut workload = Workload::new("0123abcd".parse().unwrap(), "n1".parse().unwrap(), service);
        workload.domain = domain.into();
        workload.name = name.into();
        settle(&mut workload);
        workload
    }

    #[test]
    fn names_as_neuvector_makes_them() {
        for (service, expected) in [
            ("web", "web"),
            ("Web_1.2-x", "Web_1.2-x"),
            ("team/web", "team:web"),
            ("a?b%c&d e", "a:b:c:d:e"),
            ("w\u{e9}b\n", "wb"),
            ("", "front"),
            ("\u{65e5}\u{672c}", "front"),
        ] {
            assert_eq!(settled(service, "", "front").service, expected, "{service:?}");
        }
        assert_eq!(settled("", "", "").service, "0123abcd", "nothing but an id");
        assert_eq!(settled("web", "my shop", "x").domain, "my:shop");
    }

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        let (one, two) = (format!("{}1", "x".repeat(300)), format!("{}2", "x".repeat(300)));
        let (one, two) = (settled(&one, &one, ""), settled(&two, &two, ""));
        assert_eq!(
            (one.service.len(), one.domain.len()),
            (LONGEST_SERVICE, LONGEST_DOMAIN)
        );
        assert_ne!(one.service, two.service);
        assert_ne!(one.domain, two.domain);
    }

    proptest! {
        #[test]
        fn every_workload_has_a_group_and_settling_twice_changes_nothing(
            service in any::<String>(), domain in any::<String>(), name in any::<String>(), long in 1usize..40,
        ) {
            let once = settled(&service.repeat(long), &domain.repeat(long), &name);
            prop_assert!(once.service_group().is_some(), "{once:?}");
            let mut twice = once.clone();
            settle(&mut twice);
            prop_assert_eq!(once, twice);
        }
    }
}
