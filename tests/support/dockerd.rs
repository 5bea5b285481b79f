//! Docker's API at a socket, as far as `--load` speaks it, with images in memory: what Debian 12's docker (20.10, overlay2)
//! was seen to do, word for word where it matters, and the faults that no docker does on demand.
//!
//! It looks a layer up by its chain before it opens its file, so an archive may lack the layers that it has; it answers
//! 200 before it knows how it ends, and tells of errors in the stream. `tests/engines.sh` asks the same of real engines.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// What is wrong with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// It lists layers that it has not got any more, and finds that out when it loads.
    LostLayers,
    /// Its disk is full: an error in a stream that began with 200.
    FullDisk,
    /// It reads nothing of an archive.
    Deaf,
    /// It reads all, and then says nothing.
    Mute,
    /// It ends in the middle of an archive.
    Dies,
    /// It answers with a page for browsers.
    Garbage,
    /// It answers without end.
    Babbles,
    /// It refuses with a status.
    Refuses,
    /// It takes the image and calls it by another id.
    Lies,
    /// It says what podman's service says of itself.
    IsPodman,
    /// No fault: it keeps blobs, in containerd's image store, as docker does since version 29 unless told otherwise. From
    /// its documentation; it was not at hand to be watched.
    KeepsBlobs,
}

/// One request for loading.
#[derive(Clone, Debug)]
pub struct Load {
    /// Bytes of the archive.
    pub bytes: usize,
    /// Files in it, without directories.
    pub files: Vec<String>,
}

#[derive(Clone, Default)]
struct Image {
    layers: Vec<String>,
    names: Vec<String>,
}

#[derive(Default)]
struct State {
    fault: Fault,
    /// By id, in the order in which they came.
    images: Vec<(String, Image)>,
    /// Chains of layers that are there.
    chains: Vec<Vec<String>>,
    loads: Vec<Load>,
}

/// A running docker; it ends with the test's process.
pub struct Dockerd {
    path: PathBuf,
    state: Arc<Mutex<State>>,
}

impl Dockerd {
    /// One without images, at a socket in this folder.
    pub fn start(folder: &Path) -> Self {
        let path = folder.join("docker.sock");
        let listener = UnixListener::bind(&path).expect("the path is short and free");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, state) = (stream.expect("a socket accepts"), shared.clone());
                std::thread::spawn(move || while serve(&stream, &state).is_some() {});
            }
        });
        Self { path, state }
    }

    /// `unix:///…`
    pub fn host(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// From now on this is wrong.
    pub fn set(&self, fault: Fault) {
        self.state().fault = fault;
    }

    /// What was loaded so far.
    pub fn loads(&self) -> Vec<Load> {
        self.state().loads.clone()
    }

    /// The id of the image with a name.
    pub fn id(&self, name: &str) -> Option<String> {
        let state = self.state();
        let found = state.images.iter().find(|(_, image)| image.names.iter().any(|known| known == name));
        found.map(|(id, _)| id.clone())
    }

    /// How many images there are.
    pub fn images(&self) -> usize {
        self.state().images.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with it")
    }
}

/// One request of a connection; `None`: it is over.
fn serve(stream: &UnixStream, state: &Mutex<State>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
    let mut words = line.split(' ').map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut is_chunked = false;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        is_chunked |= header == "transfer-encoding: chunked";
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let fault = state.lock().expect("no test panics with it").fault;
    if path == "/images/load" {
        assert!(is_chunked, "nobody knows how long an archive becomes");
        return load(stream, &mut reader, state, fault);
    }
    let mut state = state.lock().expect("no test panics with it");
    let what = path.strip_prefix("/images/");
    let (status, body) = match (&*method, path) {
        ("GET", "/_ping") => (200, Value::String("OK".into())),
        ("GET", "/info") => {
            let status = match fault {
                Fault::KeepsBlobs => json!([["driver-type", "io.containerd.snapshotter.v1"]]),
                _ => json!([["Backing Filesystem", "extfs"]]),
            };
            (200, json!({ "Driver": "overlay2", "DriverStatus": status }))
        }
        ("GET", "/images/json") => {
            let listed = state.images.iter().rev().map(|(id, image)| json!({ "Id": id, "RepoTags": image.names }));
            (200, Value::Array(listed.collect()))
        }
        ("GET", _) => match what.and_then(|what| what.strip_suffix("/json")) {
            Some(what) => match find(&state.images, what) {
                Some((id, image)) => {
                    let id = if fault == Fault::Lies { format!("sha256:{}", "0".repeat(64)) } else { id.clone() };
                    (
                        200,
                        json!({ "Id": id, "RepoTags": image.names, "RootFS": { "Type": "layers", "Layers": image.layers } }),
                    )
                }
                None => (404, json!({ "message": format!("No such image: {what}") })),
            },
            None => (404, json!({ "message": "page not found" })),
        },
        ("POST", _) => match what.and_then(|what| what.strip_suffix("/tag")).map(str::to_owned) {
            Some(id) => tag(&mut state.images, &id, query),
            None => (404, json!({ "message": "page not found" })),
        },
        _ => (405, json!({ "message": "method not allowed" })),
    };
    let more = if fault == Fault::IsPodman { "Libpod-Api-Version: 4.3.1\r\n" } else { "Api-Version: 1.41\r\n" };
    let body = if let Value::String(text) = body { text } else { format!("{body}\n") };
    let head = format!("HTTP/1.1 {status} x\r\n{more}Content-Length: {}\r\n\r\n", body.len());
    let mut out = stream;
    out.write_all((head + &body).as_bytes()).ok()
}

/// By id, or by a name as docker shortens it.
fn find<'a>(images: &'a [(String, Image)], what: &str) -> Option<&'a (String, Image)> {
    let name = familiar(what);
    images.iter().find(|(id, image)| id == what || image.names.contains(&name))
}

fn familiar(name: &str) -> String {
    let short = name.strip_prefix("docker.io/").unwrap_or(name);
    short.strip_prefix("library/").unwrap_or(short).to_owned()
}

fn tag(images: &mut [(String, Image)], id: &str, query: &str) -> (u16, Value) {
    let values: BTreeMap<&str, String> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key, value.replace("%2F", "/").replace("%3A", ":")))
        .collect();
    let name = familiar(&format!("{}:{}", values["repo"], values["tag"]));
    if !images.iter().any(|(known, _)| known == id) {
        return (404, json!({ "message": format!("No such image: {id}") }));
    }
    for (known, image) in images {
        image.names.retain(|other| *other != name);
        if known == id {
            image.names.push(name.clone());
        }
    }
    (201, Value::String(String::new()))
}

fn load(stream: &UnixStream, reader: &mut impl std::io::BufRead, state: &Mutex<State>, fault: Fault) -> Option<()> {
    let head = |status: u16, kind: &str| {
        let mut out = stream;
        let head = format!(
            "HTTP/1.1 {status} x\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        );
        out.write_all(head.as_bytes()).ok()
    };
    match fault {
        Fault::Deaf => {
            // The connection stays open, and unread, as long as the process.
            loop {
                std::thread::park();
            }
        }
        Fault::Dies => {
            let mut some = [0; 1000];
            reader.read_exact(&mut some).ok()?;
            stream.shutdown(std::net::Shutdown::Both).ok()?;
            return None;
        }
        _ => {}
    }
    let archive = unchunk(reader)?;
    match fault {
        Fault::Mute => {
            let mut byte = [0];
            while reader.read(&mut byte).is_ok_and(|count| count > 0) {}
            return None;
        }
        Fault::Refuses => {
            head(500, "application/json")?;
            chunk(stream, "{\"message\":\"no load today\"}\n")?;
            chunk(stream, "")?;
            return None;
        }
        Fault::Garbage => {
            head(200, "text/html")?;
            chunk(stream, "nginx says hello\n")?;
            chunk(stream, "")?;
            return None;
        }
        Fault::Babbles => {
            head(200, "application/json")?;
            while chunk(stream, &"x".repeat(1 << 16)).is_some() {}
            return None;
        }
        _ => {}
    }
    head(200, "application/json")?;
    let files = files(&archive);
    let mut state = state.lock().expect("no test panics with it");
    state.loads.push(Load { bytes: archive.len(), files: files.keys().cloned().collect() });
    if fault == Fault::LostLayers {
        state.chains.clear();
        state.fault = Fault::None;
    }
    let said = if fault == Fault::FullDisk {
        Err("write /blobs/sha256/x: no space left on device".to_owned())
    } else if fault == Fault::KeepsBlobs {
        keep(&mut state, &files)
    } else {
        take(&mut state, &files)
    };
    let lines = match said {
        Ok(id) => format!("{}\r\n", json!({ "stream": format!("Loaded image ID: {id}\n") })),
        Err(words) => format!("{}\r\n", json!({ "errorDetail": { "message": words }, "error": words })),
    };
    chunk(stream, "{\"status\":\"Loading layer\",\"progressDetail\":{\"current\":1,\"total\":2},\"id\":\"0\"}\r\n")?;
    chunk(stream, &lines)?;
    chunk(stream, "")?;
    None
}

/// What docker does with an archive.
fn take(state: &mut State, files: &BTreeMap<String, Vec<u8>>) -> Result<String, String> {
    let missing = |name: &str| format!("open /var/lib/docker/tmp/docker-import-1/{name}: no such file or directory");
    let file = |name: &str| files.get(name).ok_or_else(|| missing(name));
    let manifest: Value = serde_json::from_slice(file("manifest.json")?).map_err(|error| error.to_string())?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let config_bytes = file(&text(&manifest[0]["Config"]))?;
    let config: Value = serde_json::from_slice(config_bytes).map_err(|error| error.to_string())?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default().iter().map(text).collect::<Vec<_>>();
    let (paths, diff_ids) = (list(&manifest[0]["Layers"]), list(&config["rootfs"]["diff_ids"]));
    if paths.len() != diff_ids.len() {
        let (expected, got) = (paths.len(), diff_ids.len());
        return Err(format!("invalid manifest, layers length mismatch: expected {expected}, got {got}"));
    }
    for (at, path) in paths.iter().enumerate() {
        let chain = diff_ids[..=at].to_vec();
        if state.chains.contains(&chain) {
            continue;
        }
        let found = digest(file(path)?);
        if found != diff_ids[at] {
            return Err(format!("invalid diffID for layer {at}: expected {:?}, got {found:?}", diff_ids[at]));
        }
        state.chains.push(chain);
    }
    let id = digest(config_bytes);
    if !state.images.iter().any(|(known, _)| *known == id) {
        state.images.push((id.clone(), Image { layers: diff_ids, names: Vec::new() }));
    }
    Ok(id)
}

/// What docker with containerd's image store does with an archive.
fn keep(state: &mut State, files: &BTreeMap<String, Vec<u8>>) -> Result<String, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let index: Value =
        serde_json::from_slice(files.get("index.json").ok_or("no index.json")?).map_err(|error| error.to_string())?;
    let mut id = String::new();
    for entry in index["manifests"].as_array().ok_or("no manifests")? {
        id = text(&entry["digest"]);
        let layers = layers(files, &id)?;
        let name = familiar(&text(&entry["annotations"]["io.containerd.image.name"]));
        for (_, image) in &mut state.images {
            image.names.retain(|other| *other != name);
        }
        match state.images.iter_mut().find(|(known, _)| *known == id) {
            Some((_, image)) => image.names.push(name),
            None => state.images.push((id.clone(), Image { layers, names: vec![name] })),
        }
    }
    Ok(id)
}

/// The layers of a manifest, or of an index's image for this machine, when everything that it names is there.
fn layers(files: &BTreeMap<String, Vec<u8>>, digest: &str) -> Result<Vec<String>, String> {
    let blob = |digest: &str| {
        let found = files.get(&format!("blobs/sha256/{}", digest.trim_start_matches("sha256:")));
        found.ok_or_else(|| format!("content digest {digest}: not found"))
    };
    let read = |digest: &str| -> Result<Value, String> {
        serde_json::from_slice(blob(digest)?).map_err(|error| error.to_string())
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let document = read(digest)?;
    if let Some(entries) = document["manifests"].as_array() {
        let mut of_this_machine = Vec::new();
        for entry in entries {
            let layers = layers(files, &text(&entry["digest"]))?;
            if entry["platform"]["architecture"] == "amd64" {
                of_this_machine = layers;
            }
        }
        return Ok(of_this_machine);
    }
    let config = read(&text(&document["config"]["digest"]))?;
    for layer in document["layers"].as_array().ok_or("no layers")? {
        blob(&text(&layer["digest"]))?;
    }
    Ok(config["rootfs"]["diff_ids"].as_array().ok_or("no diff_ids")?.iter().map(text).collect())
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        if entry.header().entry_type().is_file() {
            let name = entry.path().expect("a name").display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("memory");
            assert!(files.insert(name.clone(), bytes).is_none(), "`{name}` stands twice");
        }
    }
    files
}

/// A body in chunks: RFC 9112, section 7.1. `None` if it breaks off.
fn unchunk(reader: &mut impl std::io::BufRead) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
        let length = usize::from_str_radix(line.trim(), 16).ok()?;
        let at = body.len();
        body.resize(at + length, 0);
        reader.read_exact(&mut body[at..]).ok()?;
        reader.read_line(&mut line).ok()?;
        if length == 0 {
            return Some(body);
        }
    }
}

fn chunk(mut stream: &UnixStream, text: &str) -> Option<()> {
    stream.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).ok()
}
