use std::fs;
use std::path::PathBuf;

use directories::BaseDirs;

/// The name of our folder in every base folder.
const FOLDER: &str = "aegis-broker";

/// Where things are, for one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// `aegis-broker.toml`.
    pub config_file: PathBuf,
    /// `policy.toml`, unless the configuration names another.
    pub policy_file: PathBuf,
    /// What outlives the daemon; the audit log is in `audit` below it, unless the configuration
    /// names another folder.
    pub state_dir: PathBuf,
    /// Sockets and the lock of the one daemon.
    pub runtime_dir: PathBuf,
}

/// What flags or variables name instead of the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// For [`Paths::config_file`].
    pub config_file: Option<PathBuf>,
    /// For [`Paths::policy_file`]; goes before the configuration's `policy_file` too.
    pub policy_file: Option<PathBuf>,
    /// For [`Paths::state_dir`].
    pub state_dir: Option<PathBuf>,
    /// For [`Paths::runtime_dir`].
    pub runtime_dir: Option<PathBuf>,
}

/// Why there is no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The user has no home folder.
    #[error(
        "there is no home folder to look for the configuration in: set HOME, or name the files"
    )]
    NoHome,
    /// There is no folder that only the user may enter and that ends with the login. A place
    /// that everybody may write to is never used instead.
    #[error(
        "there is no runtime folder: set XDG_RUNTIME_DIR to a private folder, or name the daemon's \
         own with --runtime-dir and its socket in it with --socket"
    )]
    NoRuntimeDir,
}

/// The surroundings that paths and defaults depend on: the process's, or a test's.
pub trait Environment {
    /// `$XDG_CONFIG_HOME`, or its default in the home folder.
    fn config_home(&self) -> Option<PathBuf>;
    /// `$XDG_STATE_HOME`, or its default in the home folder.
    fn state_home(&self) -> Option<PathBuf>;
    /// `$XDG_RUNTIME_DIR` where it is absolute.
    fn runtime_dir(&self) -> Option<PathBuf>;
    /// `/run/user/<uid>` where it exists.
    fn user_runtime_dir(&self) -> Option<PathBuf>;
    /// The machine's name.
    fn hostname(&self) -> Option<String>;
}

/// The surroundings of this process.
#[derive(Debug)]
pub struct ProcessEnvironment {
    folders: Option<BaseDirs>,
}

impl ProcessEnvironment {
    /// Looks at the environment now.
    pub fn new() -> Self {
        Self {
            folders: BaseDirs::new(),
        }
    }
}

impl Default for ProcessEnvironment {
    fn default() -> Self {
        Self::new()
    }
}

impl Environment for ProcessEnvironment {
    fn config_home(&self) -> Option<PathBuf> {
        Some(self.folders.as_ref()?.config_dir().to_owned())
    }

    fn state_home(&self) -> Option<PathBuf> {
        let folders = self.folders.as_ref()?;
        let state = folders.state_dir();
        Some(state.unwrap_or_else(|| folders.data_local_dir()).to_owned())
    }

    fn runtime_dir(&self) -> Option<PathBuf> {
        // Not from `folders`, which is nothing for who has no home.
        let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from)?;
        named.is_absolute().then_some(named)
    }

    fn user_runtime_dir(&self) -> Option<PathBuf> {
        let uid = rustix::process::geteuid().as_raw();
        let path = PathBuf::from(format!("/run/user/{uid}"));
        fs::symlink_metadata(&path)
            .is_ok_and(|found| found.is_dir())
            .then_some(path)
    }

    fn hostname(&self) -> Option<String> {
        let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
        Some(name.trim_end().to_owned())
    }
}

impl Paths {
    /// The default of everything that `overrides` does not name.
    ///
    /// # Errors
    /// [`PathError`] when something that is not named has no default here.
    pub fn resolve(
        environment: &dyn Environment,
        overrides: &Overrides,
    ) -> Result<Self, PathError> {
        let config_dir = || {
            let home = environment.config_home().ok_or(PathError::NoHome)?;
            Ok(home.join(FOLDER))
        };
        Ok(Self {
            config_file: match &overrides.config_file {
                Some(file) => file.clone(),
                None => config_dir()?.join("aegis-broker.toml"),
            },
            policy_file: match &overrides.policy_file {
                Some(file) => file.clone(),
                None => config_dir()?.join("policy.toml"),
            },
            state_dir: match &overrides.state_dir {
                Some(folder) => folder.clone(),
                None => environment
                    .state_home()
                    .ok_or(PathError::NoHome)?
                    .join(FOLDER),
            },
            runtime_dir: match &overrides.runtime_dir {
                Some(folder) => folder.clone(),
                None => runtime_dir(environment)?,
            },
        })
    }
}

/// Our folder for sockets: in `$XDG_RUNTIME_DIR` where that is absolute, else in
/// `/run/user/<uid>` where that exists. All that a client needs to find the daemon.
///
/// # Errors
/// [`PathError::NoRuntimeDir`].
pub fn runtime_dir(environment: &dyn Environment) -> Result<PathBuf, PathError> {
    environment
        .runtime_dir()
        .or_else(|| environment.user_runtime_dir())
        .map(|folder| folder.join(FOLDER))
        .ok_or(PathError::NoRuntimeDir)
}
