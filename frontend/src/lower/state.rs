//! What a stage has become so far: its tree, its variables, its config. Cheap to copy: children share what they do
//! not change.

use std::rc::Rc;

use oci::model::{Config, ImageConfig, Platform};
use solver::graph::Edge;

use super::env::Env;
use super::globals::DEFAULT_PATH;
use super::paths;

/// A stage's state.
#[derive(Clone, Debug)]
pub struct State {
    /// Its tree; `None` is the empty one.
    pub edge: Option<Edge>,
    /// The named context whose tree `edge` is: it can be copied from, but is no layer yet.
    pub context: Option<String>,
    /// The image it stands on: layers, history, unknown fields.
    pub base: Rc<ImageConfig>,
    /// Its config. `env` is kept empty here, see `image_env`.
    pub config: Rc<Config>,
    /// The variables of its config.
    pub image_env: Rc<Env>,
    /// All variables: those of its config and the ARGs in scope; the later of two lines wins.
    pub env: Rc<Env>,
    /// ARGs in scope, in order; those without a value are empty.
    pub args: Rc<Env>,
    /// Who made it.
    pub author: Rc<str>,
    /// For which machine its steps run.
    pub platform: Platform,
    /// Its last step, in `History`.
    pub history: Option<usize>,
    /// Whether it stands on an image that is not known: then there may be variables that are not here.
    pub unknown: bool,
    /// Whether the file has said a working directory.
    pub workdir_set: bool,
    /// Whether it stands on a result of other operations.
    pub on_result: bool,
}

impl State {
    /// `FROM scratch`.
    pub fn scratch(platform: &Platform) -> Self {
        let image = ImageConfig {
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
            os: platform.os.clone(),
            config: Config { working_dir: "/".into(), ..Config::default() },
            ..ImageConfig::default()
        };
        Self::from_image(None, Rc::new(image), platform)
    }

    /// `FROM image`.
    pub fn from_image(edge: Option<Edge>, image: Rc<ImageConfig>, platform: &Platform) -> Self {
        let mut config = image.config.clone();
        let lines = std::mem::take(&mut config.env);
        let mut env = Env::from_lines(&lines);
        if env.get("PATH").is_none() && platform.os != "windows" {
            env.set("PATH", DEFAULT_PATH);
        }
        // Triggers run now; they are not handed on.
        config.on_build = Vec::new();
        if !config.working_dir.is_empty() {
            config.working_dir = paths::clean(&config.working_dir);
        }
        let env = Rc::new(env);
        Self {
            edge,
            context: None,
            author: image.author.as_str().into(),
            base: image,
            config: Rc::new(config),
            image_env: env.clone(),
            env,
            args: Rc::default(),
            platform: platform.clone(),
            history: None,
            unknown: false,
            workdir_set: false,
            on_result: false,
        }
    }

    /// `FROM stage`.
    pub fn inherit(&self) -> Self {
        let mut child = self.clone();
        if !child.config.on_build.is_empty() {
            child.config_mut().on_build = Vec::new();
        }
        child
    }

    /// How much a child copies at most when it changes everything, in bytes.
    pub fn weight(&self) -> u64 {
        config_weight(&self.config) + 2 * self.env.bytes() + 2 * self.image_env.bytes() + self.args.bytes()
    }

    /// The config, to be changed.
    pub fn config_mut(&mut self) -> &mut Config {
        Rc::make_mut(&mut self.config)
    }

    /// Sets a variable of the image.
    pub fn set_env(&mut self, name: &str, value: &str) {
        Rc::make_mut(&mut self.image_env).set(name, value);
        Rc::make_mut(&mut self.env).set(name, value);
    }

    /// Sets a variable of the build.
    pub fn set_arg(&mut self, name: &str, value: &str) {
        Rc::make_mut(&mut self.env).set(name, value);
    }

    /// Where relative paths start.
    pub fn working_dir(&self) -> &str {
        if self.config.working_dir.is_empty() { "/" } else { &self.config.working_dir }
    }

    /// A shell form as a command.
    pub fn with_shell(&self, text: &str) -> Vec<String> {
        let mut args = match &self.config.shell[..] {
            [] => vec!["/bin/sh".to_owned(), "-c".to_owned()],
            shell => shell.to_vec(),
        };
        args.push(text.to_owned());
        args
    }

    /// As an image config; layers and history are those of the base.
    pub fn image(&self) -> ImageConfig {
        let mut config = Config::clone(&self.config);
        config.env = self.image_env.lines().to_vec();
        ImageConfig { created: None, author: self.author.as_ref().into(), config, ..ImageConfig::clone(&self.base) }
    }
}

/// About how many bytes a config takes.
pub fn config_weight(config: &Config) -> u64 {
    /// What an entry costs beside its text.
    const ENTRY_BYTES: usize = 64;
    let lists = [Some(&config.env), config.entrypoint.as_ref(), config.cmd.as_ref(), Some(&config.on_build)];
    let lists = lists.into_iter().flatten().flatten().map(String::len);
    let maps = config.exposed_ports.keys().chain(config.volumes.keys()).map(String::len);
    let labels = config.labels.iter().map(|(name, value)| name.len() + value.len());
    lists.chain(maps).chain(labels).map(|bytes| (bytes + ENTRY_BYTES) as u64).sum()
}
