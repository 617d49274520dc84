//! A bucket in this process: as much of S3 as flow asks for, and unwell where a test says so.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No answer ever comes.
    Silent,
    /// It is refused with status 500.
    Refused,
    /// It is done, and the connection ends without an answer.
    Lost,
}

/// Requests of this method, the line of which has this in it, so many times.
type Rule = (&'static str, &'static str, Fault, usize);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Vec<u8>>,
    rules: Vec<Rule>,
    /// The lines of all requests.
    asked: Vec<String>,
    lies: bool,
}

/// The bucket `bucket`.
pub struct Bucket {
    /// Where it answers.
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Bucket {
    /// An empty one, which is well.
    pub fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            while let Ok((connection, _)) = listener.accept() {
                let state = Arc::clone(&shared);
                // A connection that the program ends is no failure.
                thread::spawn(move || drop(serve(connection, &state)));
            }
        });
        Self { endpoint, state }
    }

    /// It fails from now on as these say, and no more as others said.
    pub fn fail(&self, rules: &[Rule]) {
        self.state.lock().unwrap().rules = rules.to_vec();
    }

    /// It lets a second writer of a name in, whatever it is asked.
    pub fn lie(&self) {
        self.state.lock().unwrap().lies = true;
    }

    /// How often it was asked for what has this in its line.
    pub fn asked(&self, part: &str) -> usize {
        self.state.lock().unwrap().asked.iter().filter(|line| line.contains(part)).count()
    }

    /// How many objects have this in their names.
    pub fn objects(&self, part: &str) -> usize {
        self.state.lock().unwrap().objects.keys().filter(|name| name.contains(part)).count()
    }
}

impl State {
    fn fault(&mut self, line: &str) -> Option<Fault> {
        let matches = |rule: &&mut Rule| line.starts_with(rule.0) && line.contains(rule.1) && rule.3 > 0;
        let rule = self.rules.iter_mut().find(matches)?;
        rule.3 -= 1;
        Some(rule.2)
    }

    /// Status, headers and bytes of the answer.
    fn answer(&mut self, method: &str, target: &str, is_create: bool, body: &[u8]) -> (u16, Vec<u8>) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let name = path.trim_start_matches("/bucket").trim_start_matches('/').to_owned();
        match method {
            "PUT" if is_create && !self.lies && self.objects.contains_key(&name) => (412, Vec::new()),
            "PUT" => {
                self.objects.insert(name, body.to_vec());
                (200, Vec::new())
            }
            "POST" => {
                let text = String::from_utf8_lossy(body);
                let mut removed = "<DeleteResult>".to_owned();
                for name in text.split("<Key>").skip(1).map(|part| part.split('<').next().unwrap()) {
                    self.objects.remove(name);
                    write!(removed, "<Deleted><Key>{name}</Key></Deleted>").unwrap();
                }
                (200, (removed + "</DeleteResult>").into_bytes())
            }
            _ if query.contains("list-type") => {
                let prefix = query.split('&').find_map(|part| part.strip_prefix("prefix=")).unwrap_or_default();
                let prefix = prefix.replace("%2F", "/");
                let mut text = "<ListBucketResult>".to_owned();
                for (name, bytes) in self.objects.iter().filter(|(name, _)| name.starts_with(&prefix)) {
                    let size = bytes.len();
                    let facts = "<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>\"e\"</ETag>";
                    write!(text, "<Contents><Key>{name}</Key>{facts}<Size>{size}</Size></Contents>").unwrap();
                }
                (200, (text + "</ListBucketResult>").into_bytes())
            }
            _ => self.objects.get(&name).map_or((404, Vec::new()), |bytes| (200, bytes.clone())),
        }
    }
}

fn serve(connection: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(connection.try_clone()?);
    let mut writer = connection;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let (mut size, mut is_create) = (0, false);
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let header = header.trim().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(length) = header.strip_prefix("content-length:") {
                size = length.trim().parse().unwrap();
            }
            is_create |= header.starts_with("if-none-match:");
        }
        let mut body = vec![0; size];
        reader.read_exact(&mut body)?;
        let mut words = line.split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let fault = {
            let mut state = state.lock().unwrap();
            state.asked.push(line.trim().to_owned());
            state.fault(&line)
        };
        let (status, bytes) = match fault {
            Some(Fault::Silent) => loop {
                thread::park();
            },
            Some(Fault::Refused) => (500, Vec::new()),
            Some(Fault::Lost) => {
                state.lock().unwrap().answer(method, target, is_create, &body);
                return Ok(());
            }
            None => state.lock().unwrap().answer(method, target, is_create, &body),
        };
        let facts = "ETag: \"e\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT";
        write!(writer, "HTTP/1.1 {status} -\r\n{facts}\r\nContent-Length: {}\r\n\r\n", bytes.len())?;
        if method != "HEAD" {
            writer.write_all(&bytes)?;
        }
    }
}
