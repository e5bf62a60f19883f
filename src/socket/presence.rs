//! Who is in a room, of this node and of the others, each card once.

use crate::{cluster::OthersPresent, push::NameSample, wire::dialect::PresentCards};

/// The cards of this node, whose `sample` is all of them, with those of the others.
pub(super) fn of_cluster(own: PresentCards, mut sample: NameSample, others: &OthersPresent) -> PresentCards {
    let PresentCards { node, mut count, mut cards, .. } = own;
    let elsewhere = others.samples.iter().filter(|theirs| !theirs.hashes().is_empty());
    for theirs in elsewhere {
        sample.merge(theirs);
        count = usize::try_from(sample.count()).unwrap_or(usize::MAX);
    }
    for card in &others.cards {
        if cards.len() >= PresentCards::MOST_CARDS {
            break;
        }
        if !cards.contains(card) {
            cards.push(card.clone());
        }
    }
    let missing = others.missing.iter().map(|node| (&**node).into()).collect();
    PresentCards { node, count, cards, missing }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push::AddressKind;

    #[test]
    fn a_card_that_is_on_several_nodes_counts_and_stands_there_once() {
        let sample = |names: &[&str]| NameSample::of(AddressKind::Card, names.iter().copied());
        let own = || PresentCards {
            node: "gw-1".into(),
            count: 2,
            cards: vec!["alice".into(), "bob".into()],
            missing: Vec::new(),
        };
        let others = OthersPresent {
            cards: ["bob", "carol", "carol"].map(Into::into).to_vec(),
            samples: vec![sample(&["bob", "carol"]), sample(&["carol"]), sample(&[])],
            missing: vec!["gw-4".into()],
        };
        let all = of_cluster(own(), sample(&["alice", "bob"]), &others);
        assert_eq!(all.cards, ["alice", "bob", "carol"]);
        assert_eq!((all.count, &all.missing[..]), (3, &["gw-4".into()][..]));
        assert_eq!(of_cluster(own(), sample(&["alice", "bob"]), &OthersPresent::default()), own());
    }
}
