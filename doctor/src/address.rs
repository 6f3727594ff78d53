//! Addresses and networks as `Match Address` lists them, and addresses to ask about: of each stretch that the lists tell apart, one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::pattern::is_like;

/// The addresses from the first to the last, of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    is_v4: bool,
    first: u128,
    last: u128,
}

fn number(address: IpAddr) -> (bool, u128) {
    match address {
        IpAddr::V4(address) => (true, u128::from(u32::from(address))),
        IpAddr::V6(address) => (false, u128::from(address)),
    }
}

fn address(is_v4: bool, number: u128) -> Option<IpAddr> {
    if is_v4 { Some(Ipv4Addr::from(u32::try_from(number).ok()?).into()) } else { Some(Ipv6Addr::from(number).into()) }
}

impl Network {
    fn of(pattern: &str) -> Option<Self> {
        let (text, bits) = match pattern.split_once('/') {
            Some((text, bits)) => (text, Some(bits.parse::<u32>().ok()?)),
            None => (pattern, None),
        };
        let (is_v4, number) = number(text.parse().ok()?);
        let width: u32 = if is_v4 { 32 } else { 128 };
        let free = width.checked_sub(bits.unwrap_or(width))?;
        let mask = 1_u128.checked_shl(free).map_or(u128::MAX, |past| past.saturating_sub(1));
        Some(Self { is_v4, first: number & !mask, last: number | mask })
    }

    fn has(self, address: &str) -> bool {
        let Ok(address) = address.parse() else { return false };
        let (is_v4, number) = number(address);
        is_v4 == self.is_v4 && (self.first..=self.last).contains(&number)
    }
}

fn patterns(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|pattern| !pattern.is_empty())
}

/// Whether a list of addresses, networks and patterns takes an address.
pub(crate) fn is_in_networks(address: &str, list: &str) -> bool {
    let is_meant = |pattern: &str| match Network::of(pattern) {
        Some(network) => network.has(address),
        None => is_like(address, pattern),
    };
    let is_excluded = patterns(list).filter_map(|pattern| pattern.strip_prefix('!')).any(is_meant);
    !is_excluded && patterns(list).any(is_meant)
}

/// The address at which each network of the list begins and the one after its end, whether it is taken or excluded; and such as the
/// patterns may mean.
pub(crate) fn addresses(list: &str) -> Vec<String> {
    let mut found = Vec::new();
    for pattern in patterns(list).map(|pattern| pattern.trim_start_matches('!')) {
        match Network::of(pattern) {
            Some(network) => {
                let after = network.last.checked_add(1).and_then(|after| address(network.is_v4, after));
                found.extend(address(network.is_v4, network.first));
                found.extend(after);
            }
            None => found.extend(["1", "2", "10"].iter().filter_map(|part| made_up(pattern, part))),
        }
    }
    found.into_iter().map(|address| address.to_string()).collect()
}

fn made_up(pattern: &str, part: &str) -> Option<IpAddr> {
    let text = pattern.replace('*', part).replace('?', "1");
    if pattern.contains(':') {
        let ends = [text.clone(), format!("{}:{part}", pattern.trim_end_matches('*'))];
        return ends.iter().find_map(|text| text.parse().ok());
    }
    let mut parts: Vec<&str> = text.split('.').collect();
    parts.resize(4, part);
    parts.join(".").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_take_what_they_do_not_exclude() {
        for (address, list) in [
            ("10.1.0.0", "10.0.0.0/8,!10.0.0.0/16"),
            ("192.168.1.7", "192.168.*"),
            ("2001:db8::1", "2001:db8::/32"),
            ("10.0.0.1", "10.0.0.1"),
            ("1.2.3.4", "0.0.0.0/0"),
            ("::1", "::/0"),
        ] {
            assert!(is_in_networks(address, list), "{address} {list}");
        }
        for (address, list) in [
            ("10.0.0.0", "10.0.0.0/8,!10.0.0.0/16"),
            ("11.0.0.0", "10.0.0.0/8"),
            ("::1", "0.0.0.0/0"),
            ("10.0.0.1", "!10.0.0.2"),
            ("10.0.0.1", "10.0.0.0/33"),
        ] {
            assert!(!is_in_networks(address, list), "{address} {list}");
        }
    }

    #[test]
    fn each_list_that_takes_any_address_takes_one_that_is_made_up_for_it() {
        for list in [
            "10.0.0.0/8,!10.0.0.0/16",
            "10.0.0.0/8,!10.0.0.0/16,!10.1.0.0/16",
            "*,!127.0.0.1",
            "!10.0.0.1,192.168.*",
            "2001:db8::/32,!2001:db8::/48",
            "2001:db8:*",
            "10.0.0.?",
        ] {
            let made = addresses(list);
            assert!(made.iter().any(|address| is_in_networks(address, list)), "{list}: {made:?}");
        }
    }
}
