use super::*;
use crate::lab::bench::results::tests::example;

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
    assert!(page.contains("<b>12.0×</b><span>twill udp to off</span>"));
    assert!(page.contains("<b>0.750×</b><span>twill udp to vxlan</span>"));
    assert_eq!(page.matches("class=\"tile ").count(), 2);
    let nothing = render(&Results { cases: Vec::new(), ..example() });
    assert!(!nothing.contains("class=\"tile"));
}
