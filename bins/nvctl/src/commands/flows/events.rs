//! Server-sent events.

const MAX_EVENT: usize = 1 << 20;

/// One server-sent event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) id: Option<u64>,
    pub(super) kind: String,
    pub(super) data: String,
}

/// Reader of server-sent events (WHATWG HTML, 9.2.6) from chunks of any size.
#[derive(Debug, Default)]
pub(super) struct Events {
    rest: Vec<u8>,
    event: Event,
}

impl Events {
    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<Vec<Event>, &'static str> {
        self.rest.extend_from_slice(chunk);
        if self.rest.len() > MAX_EVENT {
            return Err("an event of more than 1 MiB");
        }
        let mut ready = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                if !self.event.data.is_empty() {
                    ready.push(std::mem::take(&mut self.event));
                }
                self.event = Event::default();
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => self.event.id = value.parse().ok(),
                "event" => self.event.kind = value.to_owned(),
                "data" => {
                    if !self.event.data.is_empty() {
                        self.event.data.push('\n');
                    }
                    self.event.data.push_str(value);
                }
                _ => {}
            }
        }
        Ok(ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_whole_whatever_the_chunks() {
        let text = b": hello\n\nid: 7\ndata: {\"a\":\ndata: 1}\n\nevent: gap\ndata: 3 lost\n\n";
        for size in 1..text.len() {
            let mut events = Events::default();
            let mut all = Vec::new();
            for chunk in text.chunks(size) {
                all.extend(events.push(chunk).unwrap());
            }
            assert_eq!(all.len(), 2, "chunks of {size}");
            assert_eq!(
                all[0],
                Event {
                    id: Some(7),
                    kind: String::new(),
                    data: "{\"a\":\n1}".into()
                }
            );
            assert_eq!(all[1].kind, "gap");
        }
    }
}
