use super::*;
use crate::lab::bench::results::tests::example;
use crate::lab::report::Spread;

/// Elements that have no end tag and no slash either.
const VOID: [&str; 1] = ["!DOCTYPE"];

/// The names of all tags in the page, in order; asserts that they are properly nested.
fn tags(page: &str) -> Vec<String> {
    let (mut open, mut all): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    let mut rest = page;
    while let Some((_, after)) = rest.split_once('<') {
        let (tag, after) = after.split_once('>').unwrap();
        rest = after;
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap().to_owned();
        if VOID.contains(&name.as_str()) {
            continue;
        }
        if tag.starts_with('/') {
            assert_eq!(open.pop().as_ref(), Some(&name), "wrong end tag");
        } else if !tag.ends_with('/') {
            open.push(name.clone());
        }
        all.push(name);
    }
    assert!(open.is_empty(), "{open:?} stay open");
    all
}

#[test]
fn page_is_well_formed() {
    let tags = tags(&render(&example()));
    assert_eq!(tags.iter().filter(|tag| *tag == "svg").count(), 2 * 2, "two charts, both tags");
    assert!(tags.contains(&"details".to_owned()));
}

#[test]
fn page_needs_nothing_from_elsewhere() {
    let page = render(&example());
    for outside in ["http:", "https:", "//", "url(", "@import", "<script", "<link", "src="] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn text_is_no_markup() {
    let page = render(&example());
    assert!(page.contains("A &lt;fast&gt; &amp; cheap CPU"));
    assert!(page.contains("--flanneld &quot;a&lt;b&gt;&quot;=x"));
    assert!(page.contains("&lt;gone&gt;"));
}

#[test]
fn tiles_say_what_was_measured_and_no_more() {
    let page = render(&example());
    let better = "<p class=\"better\"><b>12.0×</b> off <small>11.4…12.0</small></p>";
    let worse = "<p class=\"worse\"><b>0.750×</b> vxlan <small>0.750…0.758</small></p>";
    assert!(page.contains(better) && page.contains(worse), "{page}");
    assert_eq!(page.matches("class=\"tile\"").count(), 1);
    let nothing = render(&Results { cases: Vec::new(), ..example() });
    assert!(!nothing.contains("class=\"tile"));
}

#[test]
fn no_ratio_is_too_bad_to_be_shown() {
    let mut results = example();
    let off = results.cases[0].rows[3].figures[0].clone();
    let twill = &mut results.cases[0].rows[2].figures[0];
    for (base, ratio) in [("vxlan", 1e-4), ("off", 5000.0)] {
        twill.ratios.insert(base.to_owned(), Spread::of(&[ratio]));
    }
    assert!(off.ratios.contains_key("vxlan"), "all are compared with vxlan");
    let page = render(&results);
    for shown in ["1.0e-4×</text>", "5000×</text>", ">to vxlan</text>", ">to off</text>"] {
        assert!(page.contains(shown), "{shown}");
    }
}

#[test]
fn reader_learns_first_what_is_compared_and_how_far_to_trust_it() {
    let page = render(&example());
    let place = |what: &str| page.find(what).unwrap_or_else(|| panic!("no {what}"));
    let order = [
        "twill: v1.2.3 (abcdef0)",
        "For orientation only",
        "What failed",
        "<h2>Legend",
        "class=\"tile\"",
        "<svg",
        "<h2>All figures",
    ];
    assert!(order.map(place).is_sorted(), "{page}");
    assert!(page.contains("governor schedutil"));
    assert!(!render(&Results { quick: false, ..example() }).contains("For orientation"));
}
