//! Tests of this room through its public face, in one binary. They run as root: devices, owners and `trusted.*` need
//! it.

mod support;

mod archives;
mod encoders;
mod images;
mod layer_hostile;
mod layer_oracles;
mod layer_overlay;
mod layer_round_trip;
