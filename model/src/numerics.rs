//! Where and how numbers are computed: the device, and what of it decides the bytes of a result.

use crate::error::{Error, Result};
pub use burn::tensor::Device;

/// The devices that a recipe or `--device` can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceName {
    /// The processor, by the kernels of this crate.
    Cpu,
    /// Any GPU with Vulkan, Metal or DirectX 12; cargo feature `wgpu`.
    Wgpu,
    /// An NVIDIA GPU; cargo feature `cuda`.
    Cuda,
}

impl DeviceName {
    /// From its name in a recipe.
    ///
    /// # Errors
    /// [`Error::Device`] for any other name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "cpu" => Ok(Self::Cpu),
            "wgpu" => Ok(Self::Wgpu),
            "cuda" => Ok(Self::Cuda),
            _ => Err(failure(name, "there are `cpu`, `wgpu` and `cuda`")),
        }
    }

    /// Its name in a recipe.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Wgpu => "wgpu",
            Self::Cuda => "cuda",
        }
    }

    /// What of it enters a stage's key: with the same numerics a stage makes the same bytes. On `cpu` that holds for any
    /// number of threads on any machine of the same instruction set, which is therefore part of it; the others promise
    /// agreement within a tolerance.
    pub fn numerics(self, precision: Precision) -> &'static str {
        match (self, precision) {
            (Self::Cpu, _) => crate::ops::kernels(),
            (Self::Wgpu, Precision::F32) => "wgpu-f32-1",
            (Self::Wgpu, Precision::Bf16) => "wgpu-bf16-1",
            (Self::Cuda, Precision::F32) => "cuda-f32-1",
            (Self::Cuda, Precision::Bf16) => "cuda-bf16-1",
        }
    }

    /// Opens the device.
    ///
    /// # Errors
    /// [`Error::Device`] that names the cargo feature where this program was built without it, and what is missing where
    /// the machine has no such device.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            Self::Wgpu => wgpu(),
            Self::Cuda => cuda(),
        }
    }
}

/// What numbers matrix products multiply, forward and backward. All else is in f32: weights, sums, the optimizer's means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// f32.
    F32,
    /// bf16.
    Bf16,
}

impl Precision {
    /// That of a device: bf16 on a GPU that computes with such numbers, f32 on every other and on the CPU.
    pub fn of(device: &Device) -> Self {
        if crate::ops::product::reduced_on(device) { Self::Bf16 } else { Self::F32 }
    }

    /// As keys and reports have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16 with f32 weights",
        }
    }
}

/// Opens the device of this name: [`DeviceName::parse`], then [`DeviceName::open`].
///
/// # Errors
/// Those of both.
pub fn device(name: &str) -> Result<Device> {
    DeviceName::parse(name)?.open()
}

fn failure(device: &str, reason: &str) -> Error {
    Error::Device { device: device.to_owned(), reason: reason.to_owned() }
}

#[cfg(feature = "wgpu")]
fn wgpu() -> Result<Device> {
    // Asked first: using the backend without a driver panics.
    if Device::enumerate(burn::tensor::DeviceType::Wgpu).into_vec().is_empty() {
        let reason = "no Vulkan, Metal or DirectX 12 driver was found; install the GPU's, or Mesa's software Vulkan \
                      (Debian: `apt-get install mesa-vulkan-drivers libvulkan1`)";
        return Err(failure("wgpu", reason));
    }
    // Not the first of the list, which may be a software driver beside a real GPU.
    Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice))
}

#[cfg(not(feature = "wgpu"))]
fn wgpu() -> Result<Device> {
    Err(failure("wgpu", "this program was built without it; build it with `cargo build --release --features wgpu`"))
}

#[cfg(feature = "cuda")]
fn cuda() -> Result<Device> {
    // Asked first: using the backend without a driver panics.
    let found = Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec().into_iter().next();
    found.ok_or_else(|| {
        let reason =
            "no NVIDIA driver with a GPU was found (libcuda.so); install the driver, or compute on `wgpu` or `cpu`";
        failure("cuda", reason)
    })
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Result<Device> {
    Err(failure("cuda", "this program was built without it; build it with `cargo build --release --features cuda`"))
}

/// Sets the number of compute threads of this process; once, before the first computation. No result depends on it.
///
/// # Errors
/// [`Error::Param`] where it is 0 or computing has begun with another number.
pub fn set_threads(threads: usize) -> Result<()> {
    let fail = |reason: String| Err(Error::Param { param: "threads", reason });
    if threads == 0 {
        return fail("0 threads cannot compute".to_owned());
    }
    match rayon::ThreadPoolBuilder::new().num_threads(threads).build_global() {
        Err(_) if rayon::current_num_threads() != threads => {
            fail(format!("the process already computes with {}", rayon::current_num_threads()))
        }
        _ => Ok(()),
    }
}

/// Tells the C library's allocator to keep what is freed: a training step frees and asks for the same buffers again and
/// again, and each time the kernel would zero their pages. Worth a few percent; call it once when the process starts.
pub fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn mallopt(param: std::ffi::c_int, value: std::ffi::c_int) -> std::ffi::c_int;
        }
        const M_TRIM_THRESHOLD: std::ffi::c_int = -1;
        const M_TOP_PAD: std::ffi::c_int = -2;
        const M_MMAP_MAX: std::ffi::c_int = -4;
        // SAFETY: mallopt only sets tunables of glibc's allocator, takes its own lock, and reports failure by a value that
        // we may ignore: memory is then handed back as before.
        unsafe {
            mallopt(M_MMAP_MAX, 0);
            mallopt(M_TRIM_THRESHOLD, std::ffi::c_int::MAX);
            mallopt(M_TOP_PAD, 64 << 20);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_device_is_refused_with_the_known_ones() {
        assert!(device("cpu").is_ok());
        assert!(device("tpu").unwrap_err().to_string().contains("`cpu`, `wgpu` and `cuda`"));
        for name in ["cpu", "wgpu", "cuda"] {
            assert_eq!(DeviceName::parse(name).unwrap().as_str(), name);
        }
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn cuda_that_is_not_built_in_names_its_feature() {
        assert!(device("cuda").unwrap_err().to_string().contains("--features cuda"));
    }

    #[test]
    #[cfg(not(feature = "wgpu"))]
    fn wgpu_that_is_not_built_in_names_its_feature() {
        assert!(device("wgpu").unwrap_err().to_string().contains("--features wgpu"));
    }

    #[test]
    fn the_precision_of_a_gpu_is_part_of_its_numerics() {
        use std::collections::BTreeSet;
        let both = [Precision::F32, Precision::Bf16];
        let gpus = [DeviceName::Wgpu, DeviceName::Cuda];
        let all: BTreeSet<&str> = gpus.iter().flat_map(|gpu| both.map(|p| gpu.numerics(p))).collect();
        assert_eq!(all.len(), 4);
        assert_eq!(Precision::of(&device("cpu").unwrap()), Precision::F32);
    }
}
