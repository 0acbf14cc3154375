variable "name" {
  description = "Name of this installation. It begins the names of all that is made, and marks the instances that belong to it."
  type        = string
  default     = "nightshift"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}[a-z0-9]$", var.name))
    error_message = "The name is 3 to 32 lower-case letters, digits and dashes, and begins with a letter."
  }
}

variable "tags" {
  description = "Tags for everything, nodes included, beside the one that marks the installation."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for key in keys(var.tags) : !startswith(key, "nightshift-") && !startswith(key, "nightshift/") && !startswith(lower(key), "aws:")])
    error_message = "Tags that begin with nightshift-, nightshift/ or aws: are taken."
  }
}

# Network

variable "vpc_id" {
  description = "VPC to use. Without one, a VPC with a public subnet in each of zone_count zones is made."
  type        = string
  default     = null

  validation {
    condition     = var.vpc_id == null || can(regex("^vpc-[0-9a-f]+$", var.vpc_id))
    error_message = "A VPC's id looks like vpc-0123456789abcdef0."
  }
}

variable "subnet_ids" {
  description = "Subnets for the nodes; the control plane stands in the first. Needed with vpc_id. They must reach the internet, by a gateway or a NAT."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for id in var.subnet_ids : can(regex("^subnet-[0-9a-f]+$", id))])
    error_message = "A subnet's id looks like subnet-0123456789abcdef0."
  }
}

variable "vpc_cidr" {
  description = "Address range of the VPC that is made."
  type        = string
  default     = "10.70.0.0/16"

  validation {
    condition     = can(cidrsubnet(var.vpc_cidr, 4, 15))
    error_message = "This is no IPv4 range that has room for 16 subnets."
  }
}

variable "zone_count" {
  description = "Zones of the VPC that is made. More zones mean more spot pools to choose from."
  type        = number
  default     = 3

  validation {
    condition     = var.zone_count >= 1 && var.zone_count <= 6 && floor(var.zone_count) == var.zone_count
    error_message = "1 to 6 zones."
  }
}

variable "api_allowed_cidrs" {
  description = "Address ranges that may reach the API. None by default: the API answers to those who have its client certificate, and even so need not face the internet."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for cidr in var.api_allowed_cidrs : can(cidrhost(cidr, 0))])
    error_message = "Each has to be an IPv4 range, as 192.0.2.0/24."
  }
}

variable "node_egress_cidrs" {
  description = "Address ranges that pods may reach. Everything by default, as what Jobs fetch is theirs to say."
  type        = list(string)
  default     = ["0.0.0.0/0"]

  validation {
    condition     = length(var.node_egress_cidrs) > 0 && alltrue([for cidr in var.node_egress_cidrs : can(cidrhost(cidr, 0))])
    error_message = "At least one IPv4 range, as 0.0.0.0/0."
  }
}

# Control plane

variable "control_plane_instance_type" {
  description = "Instance type of the control plane, of the architecture of control_plane_architecture."
  type        = string
  default     = "t4g.medium"

  validation {
    condition     = can(regex("^[a-z0-9-]+\\.[a-z0-9-]+$", var.control_plane_instance_type))
    error_message = "An instance type looks like t4g.medium."
  }
}

variable "control_plane_architecture" {
  description = "Architecture of the control plane: arm64 or x86_64."
  type        = string
  default     = "arm64"

  validation {
    condition     = contains(["arm64", "x86_64"], var.control_plane_architecture)
    error_message = "There is arm64 and x86_64."
  }
}

variable "data_volume_gib" {
  description = "Size of the volume that holds the log, GiB. It outlives the instance."
  type        = number
  default     = 20

  validation {
    condition     = var.data_volume_gib >= 8 && var.data_volume_gib <= 16384
    error_message = "8 to 16384 GiB."
  }
}

variable "nightshift" {
  description = "Where the control plane fetches the nightshift and nightshift-provider-aws programs, and what each must be. Without it the instance is prepared, and the programs are put there by hand."
  type = object({
    url             = string
    sha256          = string
    provider_url    = string
    provider_sha256 = string
  })
  default = null

  validation {
    condition     = var.nightshift == null ? true : alltrue([for sum in [var.nightshift.sha256, var.nightshift.provider_sha256] : can(regex("^[0-9a-f]{64}$", sum))])
    error_message = "A SHA-256 is 64 hexadecimal digits in lower case."
  }

  validation {
    condition     = var.nightshift == null ? true : alltrue([for url in [var.nightshift.url, var.nightshift.provider_url] : startswith(url, "https://")])
    error_message = "The programs are fetched over https."
  }
}

# Nodes

variable "node_architecture" {
  description = "Architecture of the nodes: arm64 or x86_64. All of node_on_demand_prices must have it."
  type        = string
  default     = "x86_64"

  validation {
    condition     = contains(["arm64", "x86_64"], var.node_architecture)
    error_message = "There is arm64 and x86_64."
  }
}

variable "node_image_id" {
  description = "Machine image of the nodes, with cloud-init and systemd. The newest Amazon Linux 2023 by default."
  type        = string
  default     = null

  validation {
    condition     = var.node_image_id == null || can(regex("^ami-[0-9a-f]+$", var.node_image_id))
    error_message = "An image's id looks like ami-0123456789abcdef0."
  }
}

variable "node_on_demand_prices" {
  description = "Instance types that may be launched, and the on-demand price of each in the region, micro-dollars an hour: what a run is compared with, and what on-demand capacity costs."
  type        = map(number)

  validation {
    condition     = length(var.node_on_demand_prices) > 0 && alltrue([for price in values(var.node_on_demand_prices) : price > 0 && floor(price) == price])
    error_message = "At least one instance type; prices are whole and positive."
  }
}

variable "node_disk_gib" {
  description = "Size of a node's root volume, GiB."
  type        = number
  default     = 30

  validation {
    condition     = var.node_disk_gib >= 8 && var.node_disk_gib <= 16384
    error_message = "8 to 16384 GiB."
  }
}

variable "node_policy_arns" {
  description = "Policies for the nodes' role, by a name of your own: what the Jobs may do in AWS. None by default: a node itself needs no permission."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for arn in values(var.node_policy_arns) : can(regex("^arn:[a-z-]+:iam::([0-9]{12}|aws):policy/", arn))])
    error_message = "Each has to be the ARN of an IAM policy."
  }
}

variable "agents" {
  description = "Where a node fetches the agent, by architecture (amd64, arm64), and what it must be. Without it the image has to hold one."
  type = map(object({
    url    = string
    sha256 = string
  }))
  default = {}

  validation {
    condition     = alltrue([for arch, agent in var.agents : contains(["amd64", "arm64"], arch) && can(regex("^[0-9a-f]{64}$", agent.sha256)) && startswith(agent.url, "https://")])
    error_message = "By amd64 or arm64: an https URL and a SHA-256 of 64 hexadecimal digits in lower case."
  }
}

# Archive

variable "archive_force_destroy" {
  description = "Whether destroying the module may delete an archive that is not empty."
  type        = bool
  default     = false
}

variable "archive_noncurrent_days" {
  description = "Days for which overwritten and deleted objects of the archive are kept."
  type        = number
  default     = 30

  validation {
    condition     = var.archive_noncurrent_days >= 1 && floor(var.archive_noncurrent_days) == var.archive_noncurrent_days
    error_message = "At least one whole day."
  }
}

variable "permissions_boundary_arn" {
  description = "Permissions boundary of the roles that are made, where an organisation demands one."
  type        = string
  default     = null
}
