//! [`Items`]: takes the items out of a list while it arrives.

/// Splits `{"kind":"NodeList","metadata":{…},"items":[{…},{…}]}` into each item and the rest,
/// `{"kind":"NodeList","metadata":{…},"items":[]}`. The items are the elements of the array in the
/// outermost object. What is no JSON is found when item and rest are parsed.
#[derive(Debug)]
pub(super) struct Items {
    /// Most bytes of an item, and of the rest.
    max: usize,
    /// How many brackets are open.
    depth: usize,
    is_in_array: bool,
    is_in_text: bool,
    is_escaped: bool,
    rest: Vec<u8>,
    item: Vec<u8>,
}

impl Items {
    pub(super) const fn new(max: usize) -> Self {
        Self {
            max,
            depth: 0,
            is_in_array: false,
            is_in_text: false,
            is_escaped: false,
            rest: Vec::new(),
            item: Vec::new(),
        }
    }

    /// Takes the next bytes, and hands each item that ends in them to `sink`.
    pub(super) fn feed(&mut self, bytes: &[u8], mut sink: impl FnMut(&[u8])) -> Result<(), String> {
        for &byte in bytes {
            let is_structure = !self.is_in_text;
            self.track_text(byte);
            if is_structure {
                self.take_structure(byte, &mut sink);
            } else {
                self.push(byte);
            }
            if self.item.len().max(self.rest.len()) > self.max {
                return Err(format!("an object has more than {} bytes", self.max));
            }
        }
        Ok(())
    }

    /// The list without its items.
    pub(super) fn finish(self) -> Vec<u8> {
        self.rest
    }

    fn track_text(&mut self, byte: u8) {
        match (self.is_in_text, byte) {
            (true, _) if self.is_escaped => self.is_escaped = false,
            (true, b'\\') => self.is_escaped = true,
            (_, b'"') => self.is_in_text = !self.is_in_text,
            (_, _) => {}
        }
    }

    fn take_structure(&mut self, byte: u8, sink: &mut impl FnMut(&[u8])) {
        match byte {
            b'{' | b'[' => {
                self.push(byte);
                self.depth += 1;
                self.is_in_array |= self.depth == 2 && byte == b'[';
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.is_in_array && self.depth == 1 {
                    self.is_in_array = false;
                }
                self.push(byte);
                if self.is_in_array && self.depth == 2 {
                    sink(&self.item);
                    self.item.clear();
                }
            }
            // Between two items.
            _ if self.is_in_array && self.depth == 2 => {}
            _ => self.push(byte),
        }
    }

    fn push(&mut self, byte: u8) {
        match self.is_in_array && self.depth >= 2 {
            true => self.item.push(byte),
            false => self.rest.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn split(text: &str, piece: usize) -> (Vec<Value>, Value) {
        let (mut items, mut found) = (Items::new(1 << 20), Vec::new());
        for chunk in text.as_bytes().chunks(piece) {
            items.feed(chunk, |item| found.push(serde_json::from_slice(item).unwrap())).unwrap();
        }
        (found, serde_json::from_slice(&items.finish()).unwrap())
    }

    #[test]
    fn items_are_found_wherever_the_pieces_end() {
        let item = json!({ "a": ["]}\\\"", { "b": [] }], "c\"[": "\\" });
        let list = json!({ "items": [item, {}, item], "metadata": { "resourceVersion": "7" } });
        for text in [list.to_string(), format!("{list:#}\n")] {
            for piece in 1..60 {
                let (found, rest) = split(&text, piece);
                assert_eq!(found, [item.clone(), json!({}), item.clone()]);
                assert_eq!(rest["metadata"]["resourceVersion"], "7");
                assert_eq!(rest["items"], json!([]));
            }
        }
        assert_eq!(split(r#"{"items":null,"metadata":{}}"#, 3).0, [Value::Null; 0]);
    }

    #[test]
    fn item_that_is_too_long_is_refused() {
        let mut items = Items::new(100);
        let text = json!({ "items": [{ "a": "x".repeat(200) }] }).to_string();
        let error = items.feed(text.as_bytes(), |_| panic!("no item")).unwrap_err();
        assert_eq!(error, "an object has more than 100 bytes");
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes: Vec<u8>) {
            let mut items = Items::new(1 << 20);
            items.feed(&bytes, |_| ()).unwrap();
        }
    }
}
