//! Flags that give steps secrets and ssh agents.

use clap::{ArgAction, Args};

/// What steps are given and nothing keeps.
#[derive(Clone, Debug, Default, Args)]
pub struct SecretArgs {
    /// Let steps see a secret, which no image keeps: id=NAME[,src=FILE|,env=VARIABLE|,cmd=COMMAND]; may be given again
    #[arg(long = "secret", help_heading = "Steps", value_name = "id=NAME,…", action = ArgAction::Append)]
    pub secrets: Vec<String>,
    /// Let steps, and ADD of repositories, sign with an ssh agent: default, ID=SOCKET or ID=KEY[,KEY…]; may be given again
    #[arg(long, help_heading = "Steps", value_name = "ID[=…]", action = ArgAction::Append)]
    pub ssh: Vec<String>,
}
